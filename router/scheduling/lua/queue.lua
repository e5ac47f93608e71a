-- The queue: the lines of pending jobs, and which of their jobs gets a lease.
--
-- A pending job is '<process>:<number>' in its line, by its ticket, and in WAITING, with what it asks for:
-- '<bound> <deadline> <tried …> @<since>', and in other lines than QUEUE ' <memory> <tenant>/<pool>' after that.
--
-- Twin     LocalScheduler._leave, _grant, _serve_queue, _arrive, _claim
-- Reads    PLAN, PLACES, PROCESSES, TURNS_OF
-- Writes   QUEUE, LINES, WAITING, TICKET, GRANTS_OF; for a claim LEASES_OF, LAPSE, BREAKER_OF, EJECTED
-- @include context
-- @include leases
-- @include plan
-- @include quarantine
-- @include retry_budget
-- @include selection
-- @include turns

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
  redis.call('ZADD', queue, ticket, name)
  waiting = waiting + added
  if is_other then
    others = others + added
    if others == 1 then set_turn(DEFAULT, '') end
  end
  if others == 0 then return end
  local heads = redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES')
  if is_other and not heads[3] then redis.call('ZADD', LINES, 0, tenant .. '/' .. pool) end
  if heads[1] == name then set_turn(tenant, pool, heads[4]) end
end

-- Take a pending job out of its line; `ticket` is its own.
local function take_out(name, ticket, tenant, pool)
  redis.call('ZREM', queue_of(tenant, pool), name)
  local taken = redis.call('HDEL', WAITING, name)
  waiting = waiting - taken
  if is_plain(tenant, pool) then
    if others > 0 then set_turn(tenant, pool, ticket) end
    return
  end
  set_turn(tenant, pool, ticket)
  others = others - taken
  if others == 0 then drop_turns(rooms) end
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

-- Give a lease. The calling process reads it in the reply; another one has to claim it.
local function grant(name, ticket, url, cap, asked)
  local process, number = string.match(name, '^(.*):(%d+)$')
  local is_own = process == call.process
  local held, moment = lease_name(name, asked.tenant, asked.memory), now + (is_own and asked.bound or CLAIM_WITHIN_MS)
  local granted = {tonumber(number), url, ticket}
  if held ~= name then granted[4], granted[5] = asked.tenant == DEFAULT and '' or asked.tenant, asked.memory end
  lease(url, cap, held, moment)
  run(asked.tenant, held, moment)
  if is_own then
    tell('granted', granted)
  else
    local list = GRANTS_OF .. process
    redis.call('RPUSH', list, cjson.encode(granted))
    redis.call('PEXPIRE', list, PROCESS_TTL_MS + CLAIM_WITHIN_MS)
  end
end

-- Take up a grant that came through the list, for `bound` ms from now on.
local function claim(url, number, bound, tenant, memory)
  tenant = tenant_named(tenant)
  local name, moment = lease_name(holder(number), tenant, memory), now + bound
  if redis.call('ZSCORE', LEASES_OF .. url, name) then
    redis.call('ZADD', LEASES_OF .. url, moment, name)
    redis.call('ZADD', LAPSE, 'LT', moment, url)
    run(tenant, name, moment)
    if redis.call('HGET', BREAKER_OF .. url, 'trial') == name then redis.call('ZADD', EJECTED, moment, url) end
    leave(holder(number))
    tell('claimed', number)
  else
    tell('lost', number)
  end
end

-- Give room to pending jobs, in turn. Those that have tried all workers with room are passed over.
local function serve_queue()
  if waiting == 0 then return end
  set_changed_turns()
  local look, skipped = new_look(), {}
  while true do
    local tenant, pool, head_ticket = whose_turn(look)
    if not tenant then return end
    local line, its_pool = tenant .. '/' .. pool, pool_named(pool)
    local room, offset = its_pool.room, skipped[line] or 0
    local head = redis.call('ZRANGE', queue_of(tenant, pool), offset, offset, 'WITHSCORES')
    local name, ticket = head[1], tonumber(head[2])
    local asked = name and asked_by(name)
    if head_ticket and offset == 0 and head_ticket ~= ticket then
      set_turn(tenant, pool, head_ticket) -- a router of the last release has taken the head
    elseif not name then
      look.is_done[line], look.done[room] = true, (look.done[room] or 0) + 1
    elseif not asked or asked.deadline <= now or not is_alive(string.match(name, '^(.*):%d+$')) then
      take_out(name, ticket, tenant, pool)
    else
      local url, cap = pick(its_pool, ticket, asked.tried)
      if url then
        grant(name, ticket, url, cap, asked)
        take_out(name, ticket, tenant, pool)
        set_changed_turns()
      else
        skipped[line], look.passed[room] = offset + 1, (look.passed[room] or 0) + 1
      end
    end
  end
end

local function is_in_room(url, room)
  if room == 0 then return redis.call('HEXISTS', PLAN, url) == 1 end
  return string.find(' ' .. (redis.call('HGET', PLACES, url) or ''), ' ' .. room .. ':', 1, true) ~= nil
end

-- Whether a job has tried every worker of its pool that may get jobs.
local function is_exhausted(pool, tried)
  if pool.workers == 0 or #tried < pool.workers then return false end
  local tried_ones = 0
  for _, url in ipairs(tried) do
    if is_in_room(url, pool.room) then tried_ones = tried_ones + 1 end
  end
  return tried_ones >= pool.workers
end

-- Whether a new attempt of the job `retry_of` is within the fleet's budget, and the job breaks no workers.
local function may_retry(number, retry_of)
  if is_quarantined(retry_of) then
    tell('quarantined', number)
  elseif not fill_budget(true) then
    tell('unfunded', number)
  else
    return true
  end
end

-- Take new tickets for those that have none; return the one before the first of them.
local function take_tickets(arrivals)
  local fresh, newest = 0, 0
  for _, arrival in ipairs(arrivals) do
    if arrival[4] == 0 then fresh = fresh + 1 else newest = math.max(newest, arrival[4]) end
  end
  local last = fresh > 0 and redis.call('INCRBY', TICKET, fresh) or nil
  if newest > 0 then -- after Redis has lost its memory the counter goes on above the tickets in hand
    local counter = last or tonumber(redis.call('GET', TICKET) or 0)
    if newest > counter then
      last = newest + fresh
      redis.call('SET', TICKET, string.format('%.0f', last))
    end
  end
  return fresh > 0 and last - fresh or 0
end

-- Whether a job may go before the jobs that wait, for none of them may go.
local function may_go_first(tenant, room)
  if is_at_most(tenant) then return false end
  if waiting == 0 then return true end
  if others == 0 then return room ~= 0 or is_at_most(DEFAULT) end
  return redis.call('EXISTS', TURNS_OF .. room) == 0
end

-- Whether the tenant has as many pending jobs as it may have.
local function is_crowded(tenant)
  local most = rule_of(tenant).max_waiting
  if most == math.huge then return false end
  local count = tenant == DEFAULT and redis.call('ZCARD', QUEUE) or 0
  for _, pool in ipairs(pools_of(tenant)) do count = count + redis.call('ZCARD', queue_of(tenant, pool)) end
  return count >= most
end

local function arrive(arrivals)
  local last_ticket = take_tickets(arrivals)
  for _, arrival in ipairs(arrivals) do
    local number, bound, wait, ticket, tried, retry_of, tenant, pool, memory = unpack(arrival)
    local name = holder(number)
    local asked = {
      bound = bound, deadline = now + wait, tried = tried, tenant = tenant_named(tenant), pool = pool, memory = memory,
    }
    if ticket == 0 then last_ticket = last_ticket + 1; ticket = last_ticket end
    local may_go = retry_of == '' or may_retry(number, retry_of)
    local its_pool = may_go and (pool_named(pool) or admit_pool(pool))
    local url, cap
    if its_pool and may_go_first(asked.tenant, its_pool.room) then url, cap = pick(its_pool, ticket, tried) end
    if not may_go then
      -- may_retry has told it.
    elseif not its_pool then
      tell('unpooled', number)
    elseif url then
      grant(name, ticket, url, cap, asked)
      if waiting > 0 then set_changed_turns() end
    elseif is_exhausted(its_pool, tried) then
      tell('exhausted', number)
    elseif is_crowded(asked.tenant) then
      tell('crowded', number)
    elseif waiting >= rules.max_waiting then
      tell('refused', number)
    else
      enter(name, ticket, asked)
      tell('queued', number, ticket)
    end
  end
end
