-- Give what is held under another spelling of a worker's URL to the worker: the newer word wins.
-- KEYS: drain, intent, registered, plan:head.  ARGV: the spelling, the worker's URL, the channel to tell of a drain.
local spelt, url = ARGV[1], ARGV[2]
if redis.call('SREM', KEYS[1], spelt) == 1 then
  redis.call('SADD', KEYS[1], url)
  redis.call('HSET', KEYS[4], 'stale', 1) -- the next exchange makes the plan anew
  redis.call('PUBLISH', ARGV[3], 'drain')
end
for _, what in ipairs({'weight ', 'max_concurrency '}) do
  local value = redis.call('HGET', KEYS[2], what .. spelt)
  if value then
    redis.call('HSET', KEYS[2], what .. url, value)
    redis.call('HDEL', KEYS[2], what .. spelt)
  end
end
if redis.call('SREM', KEYS[3], spelt) == 1 then
  redis.call('SADD', KEYS[3], url)
  local from, to = KEYS[3] .. ':' .. spelt, KEYS[3] .. ':' .. url
  if redis.call('EXISTS', from) == 1 then redis.call('RENAME', from, to) end
end
