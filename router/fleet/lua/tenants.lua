-- Publishes the rules of all tenants, all of them or nothing. The scheduler reads them when it makes the plan anew.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  '<token> <name>' of the writer's term
-- ARGV[2]  a JSON list of names, each with its rule as JSON: [name, rule, name, rule …]
-- ARGV[3]  the version of the schema that the writer knows
-- Reads    SIDECAR
-- Writes   TENANTS, FLEET (tenants_at, schema), PLAN_HEAD (stale), CHANGES
-- Returns  1, or 0 if the writer no longer leads: then nothing is written
if redis.call('GET', SIDECAR) ~= ARGV[1] then
  return 0
end
local rules = cjson.decode(ARGV[2])
redis.call('DEL', TENANTS)
if #rules > 0 then redis.call('HSET', TENANTS, unpack(rules)) end
local time = redis.call('TIME')
redis.call('HSET', FLEET, 'tenants_at', time[1] .. string.sub('00000' .. time[2], -6), 'schema', ARGV[3])
redis.call('HSET', PLAN_HEAD, 'stale', 1) -- the next call of the scheduler makes the plan anew
redis.call('PUBLISH', CHANGES, ARGV[1])
return 1
