-- Replaces what is set of one tenant at run time, unless somebody else has changed it meanwhile.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the tenant's name
-- ARGV[2]  what the caller has read; '' if there was nothing
-- ARGV[3]  what is to be there from now on; '' for nothing
-- Writes   TENANTS_INTENT, WISHES
-- Returns  1, or 0 if there is something else than the caller has read: then nothing is written
if (redis.call('HGET', TENANTS_INTENT, ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', TENANTS_INTENT, ARGV[1])
else
  redis.call('HSET', TENANTS_INTENT, ARGV[1], ARGV[3])
end
redis.call('PUBLISH', WISHES, ARGV[1])
return 1
