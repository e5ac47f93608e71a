-- Adds points to the history of the fleet's rates, and keeps the readings with which the next steps have begun.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  '<token> <name>' of the writer's term
-- ARGV[2]  the marks as JSON (router/fleet/journal/history.py)
-- ARGV[3]  a point of 10 s as JSON; '' for none
-- ARGV[4]  a point of 1 min as JSON; '' for none
-- Reads    SIDECAR
-- Writes   HISTORY_HOUR, HISTORY_DAY, HISTORY_MARK
-- Returns  1, or 0 if the writer no longer leads: then nothing is written
if redis.call('GET', SIDECAR) ~= ARGV[1] then
  return 0
end
local function add(key, point, kept)
  if point == '' then return end
  -- redis-cli has made another type of it.
  if redis.call('TYPE', key).ok ~= 'list' then redis.call('DEL', key) end
  redis.call('RPUSH', key, point)
  redis.call('LTRIM', key, -kept, -1)
  redis.call('EXPIRE', key, STAYS_S)
end
add(HISTORY_HOUR, ARGV[3], HOUR_KEPT)
add(HISTORY_DAY, ARGV[4], DAY_KEPT)
redis.call('SET', HISTORY_MARK, ARGV[2], 'EX', STAYS_S)
return 1
