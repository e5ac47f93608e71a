-- Take or renew the lead of the sidecars; returns the fencing token of this term, 0 where another leads.
-- KEYS: sidecar, fleet.  ARGV: this sidecar's name, how long the lead holds (ms).
local held = redis.call('GET', KEYS[1])
if held then
  local token, name = string.match(held, '^(%d+) (.*)$')
  if name and name ~= ARGV[1] then
    return 0
  end
  if name then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return tonumber(token)
  end -- else it is nobody's, by a slip with redis-cli
end
local time = redis.call('TIME')
local now = time[1] .. string.sub('00000' .. time[2], -6)
redis.call('HSETNX', KEYS[2], 'born', now)
-- Counted from the time, so that no token is given twice, not even after a loss of all that Redis held.
redis.call('HSETNX', KEYS[2], 'token', now)
local token = redis.call('HINCRBY', KEYS[2], 'token', 1)
redis.call('SET', KEYS[1], string.format('%.0f', token) .. ' ' .. ARGV[1], 'PX', ARGV[2])
return token
