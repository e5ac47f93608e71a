-- Gives up the lead of a sidecar, unless it has passed to another one.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  '<token> <name>' of the sidecar's term
-- Writes   SIDECAR
-- Returns  1, or 0 if that term is over already
if redis.call('GET', SIDECAR) == ARGV[1] then
  return redis.call('DEL', SIDECAR)
end
return 0
