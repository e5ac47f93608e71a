-- Reads how busy some workers and tenants are now, and what all router processes have counted.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the workers' URLs as a JSON list
-- ARGV[2]  the tenants' names as a JSON list; empty: all that are known
-- Reads    WAITING, BUDGET, STATS, EVENTS_COUNTS, LAPSE; of each worker LEASES_OF, BREAKER_OF, STATS_OF; TENANTS_KNOWN, of each
--          tenant TENANT_OF, RUNNING_OF, and its lines: QUEUE, LINES, QUEUE_OF
-- Returns  Usage as JSON (router/fleet/stats.py), and as `unread` the names of tenants beyond ENTRIES_A_CALL
local workers, tenants, unread = {}, {}, {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Anything may have been written with redis-cli. JSON knows neither NaN nor infinity: such a value counts as 0.
local function number(text)
  local found = tonumber(text)
  return found and found >= 0 and found < 1e14 and found or 0
end
local function numbers(key, ...)
  local held = redis.call('HMGET', key, ...)
  for place = 1, #held do held[place] = number(held[place]) end
  return held
end
local function counts(key, ...)
  local held = numbers(key, ...)
  for place = 1, #held do held[place] = math.floor(held[place]) end
  return held
end
local lines = redis.call('ZRANGE', LINES, 0, -1)
local pools_of = {}
for _, line in ipairs(lines) do
  local tenant, pool = string.match(line, '^([^/]*)/(.*)$')
  pools_of[tenant] = pools_of[tenant] or {}
  table.insert(pools_of[tenant], pool)
end
-- The latest seen first, then those of which no job has ended so far.
local function known_tenants()
  local names, is_known = redis.call('ZREVRANGE', TENANTS_KNOWN, 0, -1), {}
  if redis.call('EXISTS', TENANT_OF .. OTHER) == 1 then names[#names + 1] = OTHER end
  for _, name in ipairs(names) do is_known[name] = true end
  for _, line in ipairs(lines) do
    local name = string.match(line, '^[^/]*')
    if not is_known[name] then
      names[#names + 1], is_known[name] = name, true
    end
  end
  if not is_known[DEFAULT] and redis.call('EXISTS', QUEUE) == 1 then names[#names + 1] = DEFAULT end
  return names
end
-- How many jobs of the tenant are pending in all of its lines, and in each pool where any is.
local function waiting_of(tenant)
  local count, by_pool = 0, {}
  local function add(pool, line)
    local pending = redis.call('ZCARD', line)
    if pending > 0 then
      count, by_pool[pool] = count + pending, pending
    end
  end
  if tenant == DEFAULT then add('', QUEUE) end
  for _, pool in ipairs(pools_of[tenant] or {}) do add(pool, QUEUE_OF .. pool .. '/' .. tenant) end
  return count, next(by_pool) and by_pool
end

local function running_of(tenant) return redis.call('ZCOUNT', RUNNING_OF .. tenant, '(' .. now, '+inf') end

-- How many jobs of DEFAULT run. If it is the only tenant, the scheduler need not count them: all are its own. Routers of
-- 0.2 end leases without taking them out of the count, so it may be too high: it is no more than the others leave.
local function running_of_default()
  local left = 0
  for _, url in ipairs(redis.call('ZRANGE', LAPSE, 0, -1)) do
    left = left + redis.call('ZCARD', LEASES_OF .. url)
  end
  local all = known_tenants()
  if #all == 1 then return left end
  for _, name in ipairs(all) do
    if name ~= DEFAULT then left = left - running_of(name) end
  end
  return math.max(0, math.min(left, running_of(DEFAULT)))
end

for _, url in ipairs(cjson.decode(ARGV[1])) do
  local failures, ejected_until = unpack(numbers(BREAKER_OF .. url, 'failures', 'ejected_until'))
  local counted = counts(STATS_OF .. url, 'jobs', 'failures', 'busy_ms')
  workers[url] = {redis.call('ZCARD', LEASES_OF .. url), math.floor(failures), ejected_until, counted}
end
local names = ARGV[2] == '' and known_tenants() or cjson.decode(ARGV[2])
for place, name in ipairs(names) do
  if place > ENTRIES_A_CALL then
    unread[#unread + 1] = name
  else
    local counted = counts(TENANT_OF .. name, 'jobs', 'failures', 'busy_ms', 'queue_ms', 'adopted', 'reused', 'saved_ms')
    local running = name == DEFAULT and running_of_default() or running_of(name)
    local waiting, by_pool = waiting_of(name)
    tenants[name] = {running, waiting, counted, by_pool}
  end
end
local function all_counts(key)
  local held, found = redis.call('HGETALL', key), {}
  for place = 1, #held, 2 do found[held[place]] = math.floor(number(held[place + 1])) end
  return found
end
local fleet, events = all_counts(STATS), all_counts(EVENTS_COUNTS)
return cjson.encode({
  at_ms = now,
  waiting = redis.call('HLEN', WAITING),
  retries_left = numbers(BUDGET, 'saved')[1],
  -- Left out where empty: cjson would write an empty table as a list.
  fleet = next(fleet) and fleet,
  events = next(events) and events,
  workers = next(workers) and workers,
  tenants = next(tenants) and tenants,
  unread = next(unread) and unread,
})
