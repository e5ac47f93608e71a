-- Write what the leading sidecar saw, all or nothing; returns 0 and writes nothing where it no longer leads.
-- KEYS: sidecar, fleet, workers, plan:head, drain, intent, registered, then one worker hash for each entry.
-- ARGV: '<token> <name>' of the writer, its time (ISO 8601), the channel to tell of a change ('' for none), then for
-- each entry its URL and a JSON list of fields and values in turn; an empty list: the worker has left the fleet, and
-- what was said of it goes with it, unless it has registered again meanwhile.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
for entry = 1, #KEYS - 7 do
  local key, url, fields = KEYS[7 + entry], ARGV[2 + 2 * entry], cjson.decode(ARGV[3 + 2 * entry])
  if #fields > 0 then
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end -- by a slip with redis-cli
    redis.call('HSET', key, unpack(fields))
    redis.call('SADD', KEYS[3], url)
  else
    redis.call('DEL', key)
    redis.call('SREM', KEYS[3], url)
    if redis.call('EXISTS', KEYS[7] .. ':' .. url) == 0 then
      -- One of another type, by a slip with redis-cli, keeps nobody in the fleet.
      redis.pcall('SREM', KEYS[5], url)
      redis.pcall('HDEL', KEYS[6], 'weight ' .. url, 'max_concurrency ' .. url)
      redis.pcall('SREM', KEYS[7], url)
    end
  end
end
redis.call('HSET', KEYS[2], 'written_at', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], 'changed_at', ARGV[2])
  redis.call('HSET', KEYS[4], 'stale', 1) -- the next exchange makes the plan anew
  redis.call('PUBLISH', ARGV[3], ARGV[1])
end
return 1
