-- Read how some workers are used, and what all router processes have counted. Returns Usage as JSON.
-- KEYS: stats (it names the Cluster slot; all keys share the prefix).  ARGV: prefix, the workers' URLs as JSON.
local prefix, workers, fleet = ARGV[1], {}, {}

-- What redis-cli may have written: no NaN and nothing infinite, which JSON has no word for.
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

for _, url in ipairs(cjson.decode(ARGV[2])) do
  local failures, ejected_until = unpack(numbers(prefix .. ':breaker:' .. url, 'failures', 'ejected_until'))
  local counted = counts(prefix .. ':stats:' .. url, 'jobs', 'failures', 'busy_ms')
  workers[url] = {redis.call('ZCARD', prefix .. ':leases:' .. url), math.floor(failures), ejected_until, counted}
end
local held = redis.call('HGETALL', KEYS[1])
for place = 1, #held, 2 do fleet[held[place]] = math.floor(number(held[place + 1])) end
return cjson.encode({
  waiting = redis.call('ZCARD', prefix .. ':queue'),
  retries_left = numbers(prefix .. ':budget', 'saved')[1],
  fleet = next(fleet) and fleet, -- not at all where it is empty: in Lua that might as well be a list
  workers = next(workers) and workers,
})
