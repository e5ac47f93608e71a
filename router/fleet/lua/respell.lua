-- Moves what is held under another spelling of a worker's URL to the URL itself. It replaces what is held there.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the other spelling
-- ARGV[2]  the worker's URL
-- Writes   DRAIN, INTENT, REGISTERED, REGISTERED_OF both; where a drain moves also PLAN_HEAD (stale), CHANGES
-- Returns  nothing
local spelt, url = ARGV[1], ARGV[2]
if redis.call('SREM', DRAIN, spelt) == 1 then
  redis.call('SADD', DRAIN, url)
  redis.call('HSET', PLAN_HEAD, 'stale', 1) -- the next call of the scheduler makes the plan anew
  redis.call('PUBLISH', CHANGES, 'drain')
end
for _, setting in ipairs({'weight ', 'max_concurrency '}) do
  local value = redis.call('HGET', INTENT, setting .. spelt)
  if value then
    redis.call('HSET', INTENT, setting .. url, value)
    redis.call('HDEL', INTENT, setting .. spelt)
  end
end
if redis.call('SREM', REGISTERED, spelt) == 1 then
  redis.call('SADD', REGISTERED, url)
  local from, to = REGISTERED_OF .. spelt, REGISTERED_OF .. url
  if redis.call('EXISTS', from) == 1 then redis.call('RENAME', from, to) end
end
