-- Reads how busy some workers are now, and what all router processes have counted.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the workers' URLs as a JSON list
-- Reads    QUEUE, BUDGET, STATS; of each worker LEASES_OF, BREAKER_OF, STATS_OF
-- Returns  Usage as JSON (router/fleet/stats.py)
local workers, fleet = {}, {}

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

for _, url in ipairs(cjson.decode(ARGV[1])) do
  local failures, ejected_until = unpack(numbers(BREAKER_OF .. url, 'failures', 'ejected_until'))
  local counted = counts(STATS_OF .. url, 'jobs', 'failures', 'busy_ms')
  workers[url] = {redis.call('ZCARD', LEASES_OF .. url), math.floor(failures), ejected_until, counted}
end
local held = redis.call('HGETALL', STATS)
for place = 1, #held, 2 do fleet[held[place]] = math.floor(number(held[place + 1])) end
return cjson.encode({
  waiting = redis.call('ZCARD', QUEUE),
  retries_left = numbers(BUDGET, 'saved')[1],
  fleet = next(fleet) and fleet, -- left out where it is empty: cjson would write an empty table as a list
  workers = next(workers) and workers,
})
