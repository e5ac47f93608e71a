-- How many ms ago, by Redis' own clock, a job last ended well on a worker; -1 where none has.
-- KEYS: finished.  ARGV: the worker's URL.
local moment = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not moment then
  return -1
end
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000) - moment
