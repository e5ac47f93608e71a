-- Add what one router process has counted to what all have.
-- KEYS: stats (it names the Cluster slot; all keys share the prefix).  ARGV: prefix, Stats as JSON, WORKER_TTL_S.
local prefix, counted, ttl = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]

for name, count in pairs(counted.fleet) do redis.call('HINCRBY', KEYS[1], name, count) end
for url, counts in pairs(counted.workers) do
  local stats = prefix .. ':stats:' .. url
  redis.call('HINCRBY', stats, 'jobs', counts[1])
  if counts[2] > 0 then redis.call('HINCRBY', stats, 'failures', counts[2]) end
  redis.call('HINCRBY', stats, 'busy_ms', counts[3])
  redis.call('EXPIRE', stats, ttl)
end
