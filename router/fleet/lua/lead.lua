-- Makes a sidecar the leader, or renews its lead, unless another sidecar leads.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  this sidecar's name
-- ARGV[2]  how long the lead lasts unless it is renewed (ms)
-- Writes   SIDECAR, FLEET (token, born, led_by)
-- Returns  the fencing token of this sidecar's term, or 0 if another sidecar leads
-- @include journal
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
if redis.call('HSETNX', FLEET, 'born', now) == 1 then
  note('redis_emptied', '', 'Redis holds nothing of this fleet: the fleet is new, or Redis has lost what it held', ARGV[1], '{}')
end
-- Tokens are counted from the time, so that none is given twice, even after Redis has lost everything.
redis.call('HSETNX', FLEET, 'token', now)
local token = redis.call('HINCRBY', FLEET, 'token', 1)
if redis.call('HGET', FLEET, 'led_by') ~= ARGV[1] then
  redis.call('HSET', FLEET, 'led_by', ARGV[1])
  note('sidecar_changed', ARGV[1], 'The sidecar ' .. ARGV[1] .. ' leads from now on, and checks the workers', ARGV[1], '{}')
end
redis.call('SET', SIDECAR, string.format('%.0f', token) .. ' ' .. ARGV[1], 'PX', ARGV[2])
return token
