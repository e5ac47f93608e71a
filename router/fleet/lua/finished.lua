-- Tells how long ago a job last ended well on a worker, by Redis' own clock.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the worker's URL
-- Reads    FINISHED
-- Returns  that time in ms, or -1 if no job has ended well there
local moment = redis.call('ZSCORE', FINISHED, ARGV[1])
if not moment then
  return -1
end
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000) - moment
