-- The queue: the lines of pending jobs, and which of their jobs gets a lease.
--
-- A pending job is '<process>:<number>' in its line, by its ticket, and in WAITING, with what it asks for:
-- '<bound> <deadline> <tried …> @<since>', and in other lines than QUEUE ' <memory> <tenant>/<pool>' after that.
--
-- Twin     LocalScheduler._grant, _claim
-- Reads    PROCESSES
-- Writes   WAITING, GRANTS_OF; for a claim LEASES_OF, BREAKER_OF, EJECTED
-- @include context
-- @include leases
-- @include selection
-- @include lines

-- What the pending job asks for; of a job that is not known, one that is over.
local function asked_by(name)
  local text = redis.call('HGET', WAITING, name)
  if not text then return end
  local bound, deadline, rest = string.match(text, '^(%S+) (%S+) (.*)$')
  local tried, memory, tenant, pool = string.match(rest, '^(.*) @%d+ ?(%d*) ?([^/]*)/?(.*)$')
  local urls = {}
  for url in string.gmatch(tried or rest, '%S+') do urls[#urls + 1] = url end
  return {
    bound = tonumber(bound), deadline = tonumber(deadline), tried = urls, memory = tonumber(memory) or 0,
    tenant = tenant_named(tenant or ''), pool = pool or '',
  }
end

-- Let a job wait in its line.
local function enter(name, ticket, asked)
  local tenant, pool = asked.tenant, asked.pool
  local text = string.format('%.0f %.0f ', asked.bound, asked.deadline) .. table.concat(asked.tried, ' ') ..
    string.format(' @%.0f', now)
  local is_other = not is_plain(tenant, pool)
  if is_other or asked.memory > 0 then
    text = text .. string.format(' %.0f ', asked.memory) .. tenant .. '/' .. pool
  end
  local added = redis.call('HSET', WAITING, name, text)
  local queue = queue_of(tenant, pool)
  local is_new = redis.call('ZADD', queue, ticket, name) == 1
  waiting = waiting + added
  if is_other then others = others + added end
  if waiting == added then lines = 0 end
  if others == 0 then
    lines = 1
    return
  end
  local heads = redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES')
  if is_new and not heads[3] then
    lines, sole = lines + 1, nil
    if is_other then Shared.add_line(tenant, pool) end
    if lines == 2 then Shared.set_all_turns() end
  end
  if lines > 1 and heads[1] == name then Shared.set_turn(tenant, pool, heads[4]) end
end

-- Take a pending job out of its line; `ticket` is its own.
local function take_out(name, ticket, tenant, pool)
  redis.call('ZREM', queue_of(tenant, pool), name)
  local taken = redis.call('HDEL', WAITING, name)
  waiting = waiting - taken
  if not is_plain(tenant, pool) then others = others - taken end
  if lines > 1 then
    if Shared.set_turn(tenant, pool, ticket) then return end
    lines, sole = lines - 1, nil
    if lines == 1 then Shared.drop_turns() end
  elseif waiting == 0 then
    lines, sole = 0, nil
    if not is_plain(tenant, pool) then Shared.remove_line(tenant, pool) end
  end
end

-- The job waits no longer.
local function leave(name)
  if waiting == 0 then return end
  local asked = asked_by(name)
  if not asked then return end
  local ticket = redis.call('ZSCORE', queue_of(asked.tenant, asked.pool), name)
  take_out(name, ticket or 0, asked.tenant, asked.pool)
end

local alive = {[call.process] = true}
local function is_alive(process)
  if alive[process] == nil then
    local beat = redis.call('ZSCORE', PROCESSES, process)
    alive[process] = beat and now - beat < PROCESS_TTL_MS or false
  end
  return alive[process]
end

-- The grants to other processes, as JSON.
local grants = {}

-- Give a lease. The calling process reads it in the reply; another one has to claim it.
local function grant(name, ticket, url, cap, asked)
  local process, number = string.match(name, '^(.*):(%d+)$')
  local is_own = process == call.process
  local held, moment = lease_name(name, asked.tenant, asked.memory), now + (is_own and asked.bound or CLAIM_WITHIN_MS)
  local granted = {tonumber(number), url, ticket}
  if held ~= name then granted[4], granted[5] = asked.tenant == DEFAULT and '' or asked.tenant, asked.memory end
  lease(url, cap, held, moment)
  if has_memory then Shared.take_memory(url, asked.memory) end
  begin_run(asked.tenant, held, moment)
  if is_own then
    tell('granted', granted)
  else
    local list = listed(grants, process)
    list[#list + 1] = cjson.encode(granted)
  end
end

-- Let other processes know of their grants.
local function write_grants()
  for process, words in pairs(grants) do
    call_with(words, 'RPUSH', GRANTS_OF .. process)
    redis.call('PEXPIRE', GRANTS_OF .. process, PROCESS_TTL_MS + CLAIM_WITHIN_MS)
  end
end

-- Take up a grant that came through the list, for `bound` ms from now on.
local function claim(url, number, bound, tenant, memory)
  tenant = tenant_named(tenant)
  local name, moment = lease_name(holder(number), tenant, memory), now + bound
  if redis.call('ZSCORE', LEASES_OF .. url, name) then
    set_lease(url, name, moment)
    lapse_at(url, moment)
    run(tenant, name, moment)
    if redis.call('HGET', BREAKER_OF .. url, 'trial') == name then redis.call('ZADD', EJECTED, moment, url) end
    leave(holder(number))
    tell('claimed', number)
  else
    tell('lost', number)
  end
end
