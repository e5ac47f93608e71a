-- The queue: the lines of pending jobs, and which of their jobs gets a lease.
--
-- A pending job is '<process>:<number>' in its line, by its ticket, and in WAITING, with what it asks for:
-- '<bound> <deadline> <tried …> @<since>', and in other lines than QUEUE ' <memory> <tenant>/<pool>' after that.
--
-- Twin     LocalScheduler._grant, _claim
-- Reads    PROCESSES, QUEUE
-- Writes   WAITING, GRANTS_OF; for a claim LEASES_OF, BREAKER_OF, EJECTED
-- @include context
-- @include leases
-- @include selection
-- @include lines
-- @include order

-- What pending jobs ask for, by name; false: it is known that such a job does not wait. And the words to be written to
-- WAITING: of new jobs the names and texts, of those that wait no longer the names.
local asked_of, new_texts, gone_texts, is_gone = {}, {}, {}, {}

local function read_asked(text)
  local bound, deadline, rest = string.match(text, '^(%S+) (%S+) (.*)$')
  local tried, since, memory, tenant, pool = string.match(rest, '^(.*) @(%d+) ?(%d*) ?([^/]*)/?(.*)$')
  local urls = {}
  for url in string.gmatch(tried or rest, '%S+') do urls[#urls + 1] = url end
  return {
    bound = tonumber(bound), deadline = tonumber(deadline), tried = urls, memory = tonumber(memory) or 0,
    tenant = tenant_named(tenant or ''), pool = pool or '', since = tonumber(since),
  }
end

-- Read at once what jobs ask for.
local function read_all_asked(names)
  local unknown = {}
  for _, name in ipairs(names) do
    if asked_of[name] == nil then unknown[#unknown + 1] = name end
  end
  local texts = call_with(unknown, 'HMGET', WAITING)
  for place, name in ipairs(unknown) do asked_of[name] = texts[place] and read_asked(texts[place]) end
end

-- What the pending job asks for; of a job that is not known, one that is over.
local function asked_by(name)
  if asked_of[name] == nil then
    local text = redis.call('HGET', WAITING, name)
    asked_of[name] = text and read_asked(text)
  end
  return asked_of[name]
end

-- Read at once what the next jobs of a line ask for which have been read already, after `offset` others.
local function read_next_asked(tenant, pool, offset)
  local line, names = at_hand(tenant, pool), {}
  local job = line.jobs[offset + 1]
  if not job or asked_of[job.name] ~= nil then return end
  for place = offset + 1, math.min(#line.jobs, offset + jobs_in_call) do names[#names + 1] = line.jobs[place].name end
  read_all_asked(names)
end

-- Write what is left to be written of pending jobs.
local function write_queue()
  write_lines()
  call_with(new_texts, 'HSET', WAITING)
  call_with(gone_texts, 'HDEL', WAITING)
  new_texts, gone_texts, is_gone = {}, {}, {}
end

-- How many jobs of a tenant are pending, as far as this call has counted them.
local pending_of = {}

local function count_pending(tenant)
  if not pending_of[tenant] then
    write_queue()
    if lines > 1 then Shared.write_heads() end
    local count = tenant == DEFAULT and redis.call('ZCARD', QUEUE) or 0
    for _, pool in ipairs(Shared.pools_of(tenant)) do count = count + redis.call('ZCARD', queue_of(tenant, pool)) end
    pending_of[tenant] = count
  end
  return pending_of[tenant]
end

-- Take a pending job out of its line; `is_known` tells whether it is in WAITING.
local function take_out(name, tenant, pool, is_known)
  local line = at_hand(tenant, pool)
  drop_from_line(line, name)
  if has_order then Ordered.leave(name, tenant, pool) end
  is_gone[name], pending_of[tenant] = true, nil
  if is_known then
    gone_texts[#gone_texts + 1], asked_of[name] = name, false
    waiting = waiting - 1
    if not is_plain(tenant, pool) then others = others - 1 end
  end
  if lines > 1 then
    if Shared.set_head(tenant, pool) then return end
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
  take_out(name, asked.tenant, asked.pool, true)
end

-- Let a job wait in its line.
local function enter(name, ticket, asked)
  leave(name)
  if is_gone[name] then write_queue() end
  if waiting == 0 then lines = 0 end
  local tenant, pool = asked.tenant, asked.pool
  local text = string.format('%.0f %.0f ', asked.bound, asked.deadline) .. table.concat(asked.tried, ' ') ..
    string.format(' @%.0f', now)
  local is_other = not is_plain(tenant, pool)
  if is_other or asked.memory > 0 then
    text = text .. string.format(' %.0f ', asked.memory) .. tenant .. '/' .. pool
  end
  local line = at_hand(tenant, pool)
  local was_empty = lines == 0 or lines == 1 and not is_sole(tenant, pool) or lines > 1 and
    not Shared.head_ticket(tenant, pool)
  asked.since, asked_of[name] = now, asked
  new_texts[#new_texts + 1], new_texts[#new_texts + 2] = name, text
  if was_empty then line.is_whole = true end
  add_to_line(line, name, ticket)
  if has_order then Ordered.enter(name, ticket, asked) end
  waiting = waiting + 1
  if pending_of[tenant] then pending_of[tenant] = pending_of[tenant] + 1 end
  if is_other then others = others + 1 end
  if not was_empty then
    if lines > 1 and ticket <= Shared.head_ticket(tenant, pool) then Shared.set_head(tenant, pool) end
    return
  end
  lines, sole = lines + 1, nil
  if is_other and lines <= 2 then Shared.add_line(tenant, pool) end
  if lines == 2 then Shared.set_all_turns() elseif lines > 2 then Shared.set_head(tenant, pool) end
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
