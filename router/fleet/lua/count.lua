-- Add what one router process has counted to what all have.
-- KEYS: stats (it names the Cluster slot; all keys share the prefix).  ARGV: prefix, Stats as JSON, WORKER_TTL_S.
local prefix, counted, ttl = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]

local function add(key, name, count)
  local answer = redis.pcall('HINCRBY', key, name, count)
  if type(answer) == 'table' then redis.call('HSET', key, name, count) end -- redis-cli has made no number of it
end

for name, count in pairs(counted.fleet) do add(KEYS[1], name, count) end
for url, counts in pairs(counted.workers) do
  local stats = prefix .. ':stats:' .. url
  add(stats, 'jobs', counts[1])
  if counts[2] > 0 then add(stats, 'failures', counts[2]) end
  add(stats, 'busy_ms', counts[3])
  redis.call('EXPIRE', stats, ttl)
end
