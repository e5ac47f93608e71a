-- The order in the lines of tenants whose jobs go longest first.
--
-- Each line stays as it is, by ticket: turns, ages and routers of the last release go by that. ORDER_OF has the jobs of
-- such a line by their places, the lowest first. A job's place is less than 0 by its size, and among equals by ticket.
-- A job that has waited for half of its patience comes before all of these, by ticket. So does a job that has had its
-- turn before: a retry, or one whose grant was lost. So does a job that gets a place which another one has left. Jobs
-- that were pending when the order was set, and those of routers of the last release, come before, too, when they are
-- first seen.
--
-- Where only slow workers have room, they get the shortest jobs: a long one would be the last to end, or would reach its
-- time limit.
--
-- PATIENCE has the moment at which each job will have waited for half of its patience.
--
-- Twin     router/scheduling/local/order.py, Order
-- Reads    LINES
-- Writes   ORDER_OF, PATIENCE
-- @lazy Ordered
-- @include context
-- @include leases
-- @include lines
-- @include room

-- How long a job of this call is expected to take; 0: that is not known.
function Ordered.size_of(number)
  local wish = wish_of(number)
  return wish and math.min(wish[2], LARGEST_SIZE_MS) or 0
end

function Ordered.goes_by_size(tenant) return Shared.rule_of(tenant).order == LONGEST_FIRST end

-- Return the arrivals with those of each line that goes by size in order, among the places that they have.
function Ordered.longest_first(arrivals)
  local sorted, places_of = {}, {}
  for place, arrival in ipairs(arrivals) do
    sorted[place] = arrival
    local tenant = tenant_named(arrival[7])
    if Ordered.goes_by_size(tenant) then
      local places = listed(places_of, tenant .. '/' .. arrival[8])
      places[#places + 1] = place
    end
  end
  local function rank(place)
    local number, ticket = arrivals[place][1], arrivals[place][4]
    return ticket > 0 and ticket - BEFORE_ALL or -Ordered.size_of(number)
  end
  for _, places in pairs(places_of) do
    local ranked = {}
    for index, place in ipairs(places) do ranked[index] = place end
    table.sort(ranked, function(one, other)
      local first, second = rank(one), rank(other)
      return first < second or first == second and one < other
    end)
    for index, place in ipairs(places) do sorted[place] = arrivals[ranked[index]] end
  end
  return sorted
end

-- Give the job, which enters its line, its place.
function Ordered.enter(name, ticket, asked)
  if not Ordered.goes_by_size(asked.tenant) then return end
  local line = asked.tenant .. '/' .. asked.pool
  local half = math.floor((asked.deadline - now) / 2)
  local place = ticket - BEFORE_ALL
  if not asked.is_back and half > 0 then
    place = ticket % TICKETS_APART / TICKETS_APART - Ordered.size_of(tonumber(string.match(name, '%d+$')))
    redis.call('ZADD', PATIENCE, now + half, name .. ' ' .. line)
  end
  redis.call('ZADD', ORDER_OF .. line, string.format('%.17g', place), name)
end

function Ordered.leave(name, tenant, pool)
  local line = tenant .. '/' .. pool
  redis.call('ZREM', ORDER_OF .. line, name)
  redis.call('ZREM', PATIENCE, name .. ' ' .. line)
end

-- Put those before all that have waited for half of their patience.
function Ordered.hurry()
  write_lines()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', PATIENCE, '-inf', now, 'LIMIT', 0, HURRIED_AT_ONCE)) do
    local name, tenant, pool = string.match(member, '^(%S+) ([^/]*)/(.*)$')
    local order, ticket = ORDER_OF .. tenant .. '/' .. pool, redis.call('ZSCORE', queue_of(tenant, pool), name)
    if ticket then
      redis.call('ZADD', order, 'XX', string.format('%.0f', ticket - BEFORE_ALL), name)
    else
      redis.call('ZREM', order, name) -- a router of the last release has taken it
    end
    redis.call('ZREM', PATIENCE, member)
  end
end

-- Give places to the jobs of a line that have none, and drop those of jobs that are not in the line any more.
function Ordered.correct(queue, order)
  local jobs, is_in_line = redis.call('ZRANGE', queue, 0, -1, 'WITHSCORES'), {}
  for index = 1, #jobs, 2 do
    is_in_line[jobs[index]] = true
    redis.call('ZADD', order, 'NX', string.format('%.0f', jobs[index + 1] - BEFORE_ALL), jobs[index])
  end
  for _, name in ipairs(redis.call('ZRANGE', order, 0, -1)) do
    if not is_in_line[name] then redis.call('ZREM', order, name) end
  end
end

-- Whether only slow workers of the pool have room.
function Ordered.only_slow_have_room(pool)
  if pool.behind == 0 then return false end
  local view = view_of(pool.room)
  write_room(view)
  local first = redis.call('ZRANGE', view.key, 0, 0, 'WITHSCORES')[2]
  return first ~= nil and tonumber(first) >= BEHIND
end

-- Return the name of the job that goes next after `offset` others; nil if there are fewer. A slow worker gets the
-- shortest job that has not waited long.
function Ordered.name_at(order, offset, is_for_slow)
  local hurrying = is_for_slow and redis.call('ZCOUNT', order, '-inf', '(-' .. LARGEST_SIZE_MS) or math.huge
  if offset < hurrying then return redis.call('ZRANGE', order, offset, offset)[1] end
  local place = redis.call('ZCARD', order) - 1 - (offset - hurrying)
  return place >= hurrying and redis.call('ZRANGE', order, place, place)[1] or nil
end

-- Return the job of a line that goes next after `offset` others, to a slow worker or to any; nil if there are fewer.
function Ordered.job_at(tenant, pool, offset, is_for_slow)
  local line, order = at_hand(tenant, pool), ORDER_OF .. tenant .. '/' .. pool
  write_line(line)
  while true do
    if redis.call('ZCARD', line.key) ~= redis.call('ZCARD', order) then Ordered.correct(line.key, order) end
    local name = Ordered.name_at(order, offset, is_for_slow)
    if not name then return end
    local ticket = redis.call('ZSCORE', line.key, name)
    if ticket then return {name = name, ticket = tonumber(ticket)} end
    redis.call('ZREM', order, name) -- a router of the last release has taken it
  end
end

-- Drop the order of the lines that do not go by size any more.
function Ordered.drop_unused()
  if not has_order then redis.call('DEL', PATIENCE) end
  if not Ordered.goes_by_size(DEFAULT) then redis.call('DEL', ORDER_OF .. DEFAULT .. '/') end
  for _, line in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do
    if not Ordered.goes_by_size(string.match(line, '^[^/]*')) then redis.call('DEL', ORDER_OF .. line) end
  end
end
