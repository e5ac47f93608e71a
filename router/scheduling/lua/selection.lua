-- Which worker with room a ticket gets: from its place in the ring on, from a random place on, or the least loaded. A
-- slow worker gets a job only if no other one can.
--
-- Twin     router/scheduling/local/plan.py, Plan.in_order
-- Writes   ROUNDS (how many jobs each room but room 0 has given a worker, by the print of its workers)
-- @include context
-- @include pools
-- @include room

-- A member of a room: its place in the ring, and the worker with its cap.
local function parsed(member)
  local one = remembered.members[member]
  if not one then
    local place, cap, url = string.match(member, '^(%S+) (%S+) %S+ (.*)$')
    one = {member = member, place = tonumber(place), cap = tonumber(cap), url = url}
    remembered.members[member] = one
  end
  return one
end

-- The room of all workers as a pool; nil: the plan is new.
local everywhere

-- Return the room, the length of the ring, the number of workers and their print of a pool; nothing if it is not open.
local function pool_named(pool)
  if pool ~= '' then return Shared.read_named(pool) end
  everywhere = everywhere or {room = 0, ring = ring_length, behind = behind, workers = reply.routable}
  return everywhere
end

-- How much memory the job takes that looks for a worker, and the workers that have room and could have it, but have not
-- that much memory free.
local memory, unfit = 0, nil

-- Whether the job may have a member of a room: it has not tried the worker, and that has the memory.
local function suits(one, is_tried)
  if is_tried[one.url] then return false end
  if memory == 0 or Shared.fits(one.url, memory) then return true end
  if one.cap ~= TRIAL and Shared.is_large_enough(one.url, memory) then unfit[#unfit + 1] = one.url end
  return false
end

-- How many members a call reads at once: as many jobs as may want one.
local ahead = rules.strategy == 'random' and 1 or jobs_in_call

-- Read a stretch of a room's ring: up to `count` members from the place `low` on, up to `high`.
local function read_stretch(view, low, high, count)
  if view.has_new then write_room(view) end
  local members = redis.call('ZRANGEBYSCORE', view.key, low, '(' .. high, 'LIMIT', 0, count)
  local stretch = {from = low, upto = high, at = 1}
  for index, member in ipairs(members) do
    local one = parsed(member)
    stretch[index] = one
    if not view.gone[member] and not view.is_read[member] then
      view.is_read[member], view.left = true, view.left + 1
    end
  end
  if #members == count then stretch.upto = stretch[#members].place + 1 end
  view.stretches[#view.stretches + 1] = stretch
  return stretch
end

-- The stretch that has the place.
local function stretch_at(view, place)
  for _, stretch in ipairs(view.stretches) do
    if stretch.from <= place and place < stretch.upto then return stretch end
  end
end

-- The first member of a room between two places that suits the job. The more do not, the more are read at once.
local function first_between(view, low, high, is_tried)
  local count = ahead
  while low < high do
    local stretch = stretch_at(view, low)
    if not stretch then stretch, count = read_stretch(view, low, high, count), 2 * count end
    local at = stretch.at
    if at > 1 and stretch[at - 1].place >= low then at = 1 end
    while stretch[at] and stretch[at].place < low do at = at + 1 end
    stretch.at = at
    while stretch[at] and stretch[at].place < high do
      local one = stretch[at]
      if not view.gone[one.member] and suits(one, is_tried) then return one.url, one.cap end
      at = at + 1
    end
    low = stretch.upto
  end
end

-- Of a ring that begins at `first`, the first worker from the turn's place on.
local function pick_from_ring(view, first, length, turn, is_tried)
  local place = first + turn % length
  local url, cap = first_between(view, place, first + length, is_tried)
  if not url then url, cap = first_between(view, first, place, is_tried) end
  return url, cap
end

-- Of the members with a score, from `offset` on, the first one that suits the job.
local function first_tied(room, score, offset, count, is_tried)
  while count > 0 do
    local members = redis.call('ZRANGEBYSCORE', room, score, score, 'LIMIT', offset, math.min(count, 8))
    for _, member in ipairs(members) do
      local one = parsed(member)
      if suits(one, is_tried) then return one.url, one.cap end
    end
    if #members < 8 then return end
    offset, count = offset + 8, count - 8
  end
end

local function pick_by_load(view, ticket, is_tried)
  write_room(view)
  local room = view.key
  local lowest = redis.call('ZRANGE', room, 0, 0, 'WITHSCORES')[2]
  while lowest do
    local ties = redis.call('ZCOUNT', room, lowest, lowest)
    local offset = ticket % ties
    local url, cap = first_tied(room, lowest, offset, ties - offset, is_tried)
    if not url then url, cap = first_tied(room, lowest, 0, offset, is_tried) end
    if url then return url, cap end
    lowest = redis.call('ZRANGEBYSCORE', room, '(' .. lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
end

-- The turn of round robin: the ticket, or in other rooms than that of all workers their own count.
local rounds, more_rounds = {}, {}
local function round_of(pool, ticket)
  if pool.room == 0 then return ticket end
  rounds[pool.print] = rounds[pool.print] or tonumber(redis.call('HGET', ROUNDS, pool.print) or 0)
  return rounds[pool.print]
end

local function pick_in(pool, ticket, is_tried)
  local view = view_of(pool.room)
  if is_by_load then return pick_by_load(view, ticket, is_tried) end
  local start = rules.strategy == 'random' and (call.seed or 0) + SPREAD * ticket or round_of(pool, ticket)
  local url, cap = pick_from_ring(view, 0, pool.ring, start, is_tried)
  if not url and pool.behind > 0 then url, cap = pick_from_ring(view, BEHIND, pool.behind, start, is_tried) end
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
  if url then
    rounds[pool.print] = round_of(pool, ticket) + 1
    more_rounds[pool.print] = (more_rounds[pool.print] or 0) + 1
  end
  return url, cap
end

local function write_rounds()
  for print, more in pairs(more_rounds) do redis.call('HINCRBY', ROUNDS, print, more) end
  more_rounds = {}
end
