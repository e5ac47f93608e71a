-- Read how some workers are used, and what all router processes have counted. Returns Usage as JSON.
-- KEYS: stats (it names the Cluster slot; all keys share the prefix).  ARGV: prefix, the workers' URLs as JSON.
local prefix, workers, fleet = ARGV[1], {}, {}

local function numbers(key, ...)
  local held = redis.call('HMGET', key, ...)
  for place = 1, #held do held[place] = tonumber(held[place]) or 0 end
  return held
end

for _, url in ipairs(cjson.decode(ARGV[2])) do
  local failures, ejected_until = unpack(numbers(prefix .. ':breaker:' .. url, 'failures', 'ejected_until'))
  local counts = numbers(prefix .. ':stats:' .. url, 'jobs', 'failures', 'busy_ms')
  workers[url] = {redis.call('ZCARD', prefix .. ':leases:' .. url), failures, ejected_until, counts}
end
local held = redis.call('HGETALL', KEYS[1])
for place = 1, #held, 2 do fleet[held[place]] = tonumber(held[place + 1]) end
return cjson.encode({
  waiting = redis.call('ZCARD', prefix .. ':queue'),
  retries_left = numbers(prefix .. ':budget', 'saved')[1],
  fleet = next(fleet) and fleet, -- not at all where it is empty: in Lua that might as well be a list
  workers = next(workers) and workers,
})
