-- A process' heartbeat: it shows that the process lives, sets leases again that Redis has lost, and looks for its jobs.
--
-- Twin     LocalScheduler._hear_beat
-- Reads    WAITING, PLACES
-- Writes   PROCESSES, PROCESS_OF, LEASES_OF, LAPSE, QUARANTINE (only what has passed)
-- @include context
-- @include leases
-- @include retry_budget
-- @include room

-- The arguments are Beat's fields (router/scheduling/messages.py).
local function hear_beat(running, waiting, oldest, held, is_return)
  fill_budget(false)
  redis.call('ZREMRANGEBYSCORE', QUARANTINE, '-inf', now)
  redis.call('ZADD', PROCESSES, now, call.process)
  redis.call('ZREMRANGEBYSCORE', PROCESSES, '-inf', now - PROCESS_TTL_MS)
  reply.processes = redis.call('ZCARD', PROCESSES)
  if rooms > 0 then -- routers of the last release keep only room 0
    for _, url in ipairs(redis.call('HRANDFIELD', PLACES, ROOMS_CORRECTED)) do set_room_anew(url) end
  end
  local key = PROCESS_OF .. call.process
  redis.call('HSET', key, 'heartbeat', math.floor(now / 1000), 'leases', running, 'waiting', waiting)
  redis.call('PEXPIRE', key, PROCESS_TTL_MS)
  if is_return then drop_unheld(held) end
  for _, item in ipairs(held) do
    local url, number, left, tenant, memory = unpack(item)
    tenant = tenant_named(tenant)
    local name = lease_name(holder(number), tenant, memory)
    if redis.call('ZADD', LEASES_OF .. url, 'NX', now + left, name) == 1 then
      run(tenant, name, now + left)
      redis.call('ZADD', LAPSE, 'LT', now + left, url)
      update_room(url)
    end
  end
  for _, number in ipairs(oldest) do
    if redis.call('HEXISTS', WAITING, holder(number)) == 0 then tell('missing', number) end
  end
end
