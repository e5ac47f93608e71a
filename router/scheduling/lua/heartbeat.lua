-- A process' heartbeat: it shows that the process lives, sets leases again that Redis has lost, and looks for its jobs.
--
-- Twin     LocalScheduler._hear_beat, _drop_unheld
-- Reads    WORKERS, WAITING, PLACES
-- Writes   PROCESSES, PROCESS_OF, LEASES_OF, QUARANTINE (only what has passed)
-- @lazy Seldom
-- @include context
-- @include journal
-- @include leases
-- @include queue
-- @include room

-- Drop the leases of the calling process that are not in `held`. It reads all leases: after an outage only.
function Seldom.drop_unheld(held)
  local is_held = {}
  for _, item in ipairs(held) do
    is_held[item[1] .. ' ' .. lease_name(holder(item[2]), tenant_named(item[4]), item[5])] = true
  end
  for _, url in ipairs(redis.call('SMEMBERS', WORKERS)) do
    local dropped = 0
    for _, name in ipairs(redis.call('ZRANGE', LEASES_OF .. url, 0, -1)) do
      if string.match(name, '^(.*):%d+ ?%S* ?%S*$') == call.process and not is_held[url .. ' ' .. name] then
        end_run(tenant_of(name), name)
        if drop_lease(url, name) then dropped = dropped + 1 end
      end
    end
    if dropped > 0 then update_room(url) end
  end
end

-- Drop the pending jobs of dead processes. Those whose turn does not come, as in a pool without workers, would stay.
function Seldom.drop_abandoned()
  write_queue()
  for _, name in ipairs(redis.call('HKEYS', WAITING)) do
    if not is_alive(string.match(name, '^(.*):%d+$')) then leave(name) end
  end
end

-- Drop processes without a heartbeat for too long. If the calling process is one of them, Redis was away, and all
-- processes seem silent: that says nothing of them.
function Seldom.drop_silent(silent)
  local was_silent = false
  for _, process in ipairs(silent) do was_silent = was_silent or process == call.process end
  for _, process in ipairs(silent) do
    redis.call('ZREM', PROCESSES, process)
    if not was_silent then Seldom.note_silence(process) end
  end
  if not was_silent then Seldom.drop_abandoned() end
end

-- The arguments are Beat's fields (router/scheduling/messages.py).
function Seldom.hear_beat(leases, pending, oldest, held, is_return)
  Seldom.fill_budget(false)
  if may_hedge then Seldom.fill_hedges(false) end
  redis.call('ZREMRANGEBYSCORE', QUARANTINE, '-inf', now)
  local silent = redis.call('ZRANGEBYSCORE', PROCESSES, '-inf', now - PROCESS_TTL_MS)
  if #silent > 0 then Seldom.drop_silent(silent) end
  redis.call('ZADD', PROCESSES, now, call.process)
  reply.processes = redis.call('ZCARD', PROCESSES)
  if rooms > 0 then -- routers of the last release keep only room 0
    for _, url in ipairs(redis.call('HRANDFIELD', PLACES, ROOMS_CORRECTED)) do set_room_anew(url) end
  end
  local key = PROCESS_OF .. call.process
  redis.call('HSET', key, 'heartbeat', math.floor(now / 1000), 'leases', leases, 'waiting', pending, 'notes', 1)
  redis.call('PEXPIRE', key, PROCESS_TTL_MS)
  if is_return then Seldom.drop_unheld(held) end
  for _, item in ipairs(held) do
    local url, number, left, tenant, memory = unpack(item)
    tenant = tenant_named(tenant)
    local name = lease_name(holder(number), tenant, memory)
    if not redis.call('ZSCORE', LEASES_OF .. url, name) then
      set_lease(url, name, now + left)
      run(tenant, name, now + left)
      lapse_at(url, now + left)
      update_room(url)
    end
  end
  write_queue()
  for _, number in ipairs(oldest) do
    if redis.call('HEXISTS', WAITING, holder(number)) == 0 then tell('missing', number) end
  end
end
