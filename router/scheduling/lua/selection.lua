-- Which worker with room a ticket gets: from its place in the ring on, from a random place on, or the least loaded. A
-- slow worker gets a job only if no other one can.
--
-- Twin     router/scheduling/local/plan.py, Plan.in_order
-- Writes   ROUNDS (how many jobs each room but room 0 has given a worker, by the print of its workers)
-- @include context
-- @include pools

local function parsed(member)
  local cap, url = string.match(member, '^%S+ (%S+) %S+ (.*)$')
  return url, tonumber(cap)
end

-- The room of all workers as a pool; nil: the plan is new.
local everywhere

-- Return the room, the length of the ring, the number of workers and their print of a pool; nothing if it is not open.
local function pool_named(pool)
  if pool ~= '' then return Shared.read_named(pool) end
  everywhere = everywhere or {room = 0, ring = ring_length, behind = behind, workers = reply.routable}
  return everywhere
end

-- How much memory the job takes that looks for a worker, and the workers that have room but not that much memory.
local memory, unfit = 0, nil

-- The first of a room's members between two scores, from `offset` on, that the job has not tried and that has the
-- memory.
local function first_untried(room, low, high, offset, count, is_tried)
  while count > 0 do
    local members = redis.call('ZRANGEBYSCORE', room, low, high, 'LIMIT', offset, math.min(count, 8))
    for _, member in ipairs(members) do
      local url, cap = parsed(member)
      if not is_tried[url] then
        if memory == 0 or Shared.fits(url, memory) then return url, cap end
        if cap ~= TRIAL then unfit[#unfit + 1] = url end
      end
    end
    if #members < 8 then return end
    offset, count = offset + 8, count - 8
  end
end

-- Of a ring that begins at `first`, the first worker from the turn's place on.
local function pick_from_ring(room, first, length, turn, is_tried)
  local place = first + turn % length
  local url, cap = first_untried(room, place, '(' .. first + length, 0, length, is_tried)
  if not url then url, cap = first_untried(room, first, '(' .. place, 0, length, is_tried) end
  return url, cap
end

local function pick_by_load(room, ticket, is_tried)
  local lowest = redis.call('ZRANGE', room, 0, 0, 'WITHSCORES')[2]
  while lowest do
    local ties = redis.call('ZCOUNT', room, lowest, lowest)
    local offset = ticket % ties
    local url, cap = first_untried(room, lowest, lowest, offset, ties - offset, is_tried)
    if not url then url, cap = first_untried(room, lowest, lowest, 0, offset, is_tried) end
    if url then return url, cap end
    lowest = redis.call('ZRANGEBYSCORE', room, '(' .. lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
end

-- The turn of round robin: the ticket, or in other rooms than that of all workers their own count.
local rounds = {}
local function round_of(pool, ticket)
  if pool.room == 0 then return ticket end
  rounds[pool.print] = rounds[pool.print] or tonumber(redis.call('HGET', ROUNDS, pool.print) or 0)
  return rounds[pool.print]
end

local function pick_in(pool, ticket, is_tried)
  local room = room_key(pool.room)
  if is_by_load then return pick_by_load(room, ticket, is_tried) end
  local start = rules.strategy == 'random' and (call.seed or 0) + SPREAD * ticket or round_of(pool, ticket)
  local url, cap = pick_from_ring(room, 0, pool.ring, start, is_tried)
  if not url and pool.behind > 0 then url, cap = pick_from_ring(room, BEHIND, pool.behind, start, is_tried) end
  return url, cap
end

-- Return the URL and the cap of a worker of the pool that has room for the job; nothing if there is none.
local function pick(pool, ticket, asked)
  memory, unfit = has_memory and asked.memory or 0, asked.memory > 0 and {} or nil
  if pool.ring == 0 then return end
  local is_tried = {}
  for _, url in ipairs(asked.tried) do is_tried[url] = true end
  local url, cap = pick_in(pool, ticket, is_tried)
  if pool.room == 0 then return url, cap end
  while url and not has_room(url, cap) do -- routers of the last release keep only room 0
    set_room_anew(url)
    unfit = unfit and {}
    url, cap = pick_in(pool, ticket, is_tried)
  end
  if url then rounds[pool.print] = redis.call('HINCRBY', ROUNDS, pool.print, 1) end
  return url, cap
end
