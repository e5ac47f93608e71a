-- Adds what one router process has counted to the counts of the whole fleet.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  Stats as JSON (router/fleet/stats.py)
-- ARGV[2]  how long a worker's counts stay without new ones (s)
-- Writes   STATS, STATS_OF each worker
-- Returns  nothing
local counted, ttl = cjson.decode(ARGV[1]), ARGV[2]

local function add(key, name, count)
  local answer = redis.pcall('HINCRBY', key, name, count)
  -- redis-cli has written something that is no number: the count begins again.
  if type(answer) == 'table' then redis.call('HSET', key, name, count) end
end

for name, count in pairs(counted.fleet) do add(STATS, name, count) end
for url, counts in pairs(counted.workers) do
  local key = STATS_OF .. url
  add(key, 'jobs', counts[1])
  if counts[2] > 0 then add(key, 'failures', counts[2]) end
  add(key, 'busy_ms', counts[3])
  redis.call('EXPIRE', key, ttl)
end
