-- Adds what one router process has counted to the counts of the whole fleet.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  Stats as JSON (router/fleet/stats.py)
-- ARGV[2]  how long the counts of a worker or tenant stay without new ones (s)
-- Writes   STATS, STATS_OF each worker, TENANT_OF each tenant, TENANTS_KNOWN
-- Returns  nothing
local counted, ttl = cjson.decode(ARGV[1]), ARGV[2]

local function add(key, name, count)
  local answer = redis.pcall('HINCRBY', key, name, count)
  -- redis-cli has written something that is no number: the count begins again.
  if type(answer) == 'table' then redis.call('HSET', key, name, count) end
end
local function add_some(key, name, count)
  if count > 0 then add(key, name, count) end
end

for name, count in pairs(counted.fleet) do add(STATS, name, count) end
for url, counts in pairs(counted.workers) do
  local key = STATS_OF .. url
  add(key, 'jobs', counts[1])
  add_some(key, 'failures', counts[2])
  add(key, 'busy_ms', counts[3])
  redis.call('EXPIRE', key, ttl)
end

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
-- Whether a new tenant may count under its own name. Of MAX_TENANTS the one that was idle longest makes room.
local function has_room(now)
  if redis.call('ZCARD', TENANTS_KNOWN) < MAX_TENANTS then return true end
  local oldest = redis.call('ZRANGE', TENANTS_KNOWN, 0, 0, 'WITHSCORES')
  if now - oldest[2] < TENANT_STAYS_MS then return false end
  redis.call('ZREM', TENANTS_KNOWN, oldest[1])
  redis.call('DEL', TENANT_OF .. oldest[1])
  return true
end
local function name_of(tenant, now)
  local is_known = tenant == OTHER or redis.call('ZSCORE', TENANTS_KNOWN, tenant)
  return (is_known or has_room(now)) and tenant or OTHER
end

if next(counted.tenants) then
  local now = now_ms()
  redis.call('ZREMRANGEBYSCORE', TENANTS_KNOWN, '-inf', now - ttl * 1000)
  for tenant, counts in pairs(counted.tenants) do
    local name = name_of(tenant, now)
    local key = TENANT_OF .. name
    add(key, 'jobs', counts[1])
    add_some(key, 'failures', counts[2])
    add_some(key, 'busy_ms', counts[3])
    add_some(key, 'queue_ms', counts[4])
    add_some(key, 'adopted', counts[5])
    add_some(key, 'reused', counts[6])
    add_some(key, 'saved_ms', counts[7])
    redis.call('EXPIRE', key, ttl)
    if name ~= OTHER then redis.call('ZADD', TENANTS_KNOWN, now, name) end
  end
end
