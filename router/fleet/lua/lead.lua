-- Makes a sidecar the leader, or renews its lead, unless another sidecar leads.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  this sidecar's name
-- ARGV[2]  how long the lead lasts unless it is renewed (ms)
-- Writes   SIDECAR, FLEET (token, born)
-- Returns  the fencing token of this sidecar's term, or 0 if another sidecar leads
local held = redis.call('GET', SIDECAR)
if held then
  local token, name = string.match(held, '^(%d+) (.*)$')
  if name and name ~= ARGV[1] then
    return 0
  end
  if name then
    redis.call('PEXPIRE', SIDECAR, ARGV[2])
    return tonumber(token)
  end -- else redis-cli has written something that names no sidecar: the lead is free
end
local time = redis.call('TIME')
local now = time[1] .. string.sub('00000' .. time[2], -6)
redis.call('HSETNX', FLEET, 'born', now)
-- Tokens are counted from the time, so that none is given twice, even after Redis has lost everything.
redis.call('HSETNX', FLEET, 'token', now)
local token = redis.call('HINCRBY', FLEET, 'token', 1)
redis.call('SET', SIDECAR, string.format('%.0f', token) .. ' ' .. ARGV[1], 'PX', ARGV[2])
return token
