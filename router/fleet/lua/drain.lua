-- Drains a worker, or resumes it, and writes who has done so if that has changed anything.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the worker's URL
-- ARGV[2]  'SADD' to drain it, 'SREM' to resume it
-- ARGV[3]  the event as a JSON list: kind, subject, text, by, more (JSON)
-- Writes   DRAIN, PLAN_HEAD (stale), CHANGES
-- Returns  nothing
-- @include journal
if redis.call(ARGV[2], DRAIN, ARGV[1]) == 1 then note(unpack(cjson.decode(ARGV[3]))) end
redis.call('HSET', PLAN_HEAD, 'stale', 1) -- the next call of the scheduler makes the plan anew
redis.call('PUBLISH', CHANGES, 'drain')
