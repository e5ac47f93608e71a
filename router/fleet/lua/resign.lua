-- Give up the lead of the sidecars, unless it has passed to another.  KEYS: sidecar.  ARGV: '<token> <name>'.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
