-- Which worker with room a ticket gets: from its place in the ring on, from a random place on, or the least loaded.
--
-- Twin     router/scheduling/plan.py, Plan.in_order
-- Reads    ROOM
-- @include context

local function parsed(member)
  local cap, url = string.match(member, '^%S+ (%S+) %S+ (.*)$')
  return url, tonumber(cap)
end

-- The first of ROOM's members between two scores, from `offset` on, that the job has not tried.
local function first_untried(low, high, offset, count, is_tried)
  while count > 0 do
    local members = redis.call('ZRANGEBYSCORE', ROOM, low, high, 'LIMIT', offset, math.min(count, 8))
    for _, member in ipairs(members) do
      local url, cap = parsed(member)
      if not is_tried[url] then return url, cap end
    end
    if #members < 8 then return end
    offset, count = offset + 8, count - 8
  end
end

local function pick_from_ring(place, is_tried)
  local url, cap = first_untried(place, '+inf', 0, ring_length, is_tried)
  if not url then url, cap = first_untried('-inf', '(' .. place, 0, ring_length, is_tried) end
  return url, cap
end

local function pick_by_load(ticket, is_tried)
  local lowest = redis.call('ZRANGE', ROOM, 0, 0, 'WITHSCORES')[2]
  while lowest do
    local ties = redis.call('ZCOUNT', ROOM, lowest, lowest)
    local offset = ticket % ties
    local url, cap = first_untried(lowest, lowest, offset, ties - offset, is_tried)
    if not url then url, cap = first_untried(lowest, lowest, 0, offset, is_tried) end
    if url then return url, cap end
    lowest = redis.call('ZRANGEBYSCORE', ROOM, '(' .. lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
end

-- Return the URL and the cap of a worker that has room and is not among `tried`; nothing if there is none.
local function pick(ticket, tried)
  if ring_length == 0 then return end
  local is_tried = {}
  for _, url in ipairs(tried) do is_tried[url] = true end
  if is_by_load then return pick_by_load(ticket, is_tried) end
  local start = rules.strategy == 'random' and (call.seed or 0) + SPREAD * ticket or ticket
  return pick_from_ring(start % ring_length, is_tried)
end
