-- The queue: pending jobs in order of arrival, and which of them gets a lease.
--
-- A pending job is '<process>:<number>' in both keys: QUEUE has its ticket, WAITING '<bound> <deadline> <tried …>'.
--
-- Twin     LocalScheduler._leave, _grant, _serve_queue, _arrive, _claim
-- Reads    PLAN, ROOM, PROCESSES
-- Writes   QUEUE, WAITING, TICKET, GRANTS_OF; for a claim LEASES_OF, LAPSE, BREAKER_OF, EJECTED
-- @include context
-- @include leases
-- @include quarantine
-- @include retry_budget
-- @include selection

local function leave(name)
  redis.call('ZREM', QUEUE, name)
  redis.call('HDEL', WAITING, name)
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
local function grant(name, ticket, url, cap, bound)
  local process, number = string.match(name, '^(.*):(%d+)$')
  if process == call.process then
    lease(url, cap, name, now + bound)
    tell('granted', {tonumber(number), url, ticket})
  else
    lease(url, cap, name, now + CLAIM_WITHIN_MS)
    local list = GRANTS_OF .. process
    redis.call('RPUSH', list, cjson.encode({tonumber(number), url, ticket}))
    redis.call('PEXPIRE', list, PROCESS_TTL_MS + CLAIM_WITHIN_MS)
  end
end

-- Take up a grant that came through the list, for `bound` ms from now on.
local function claim(url, number, bound)
  local name, moment = holder(number), now + bound
  if redis.call('ZSCORE', LEASES_OF .. url, name) then
    redis.call('ZADD', LEASES_OF .. url, moment, name)
    redis.call('ZADD', LAPSE, 'LT', moment, url)
    if redis.call('HGET', BREAKER_OF .. url, 'trial') == name then redis.call('ZADD', EJECTED, moment, url) end
    leave(name)
    tell('claimed', number)
  else
    tell('lost', number)
  end
end

-- Give room to pending jobs, the first in the queue first. Those that have tried all workers with room are passed over.
local function serve_queue()
  local passed = 0
  while passed < PASSED_OVER_AT_MOST and redis.call('EXISTS', ROOM) == 1 do
    local head = redis.call('ZRANGE', QUEUE, passed, passed, 'WITHSCORES')
    if not head[1] then return end
    local name, ticket = head[1], tonumber(head[2])
    local bound, deadline, tried = string.match(redis.call('HGET', WAITING, name) or '0 0 ', '^(%S+) (%S+) (.*)$')
    if tonumber(deadline) <= now or not is_alive(string.match(name, '^(.*):%d+$')) then
      leave(name)
    else
      local urls = {}
      for url in string.gmatch(tried, '%S+') do urls[#urls + 1] = url end
      local url, cap = pick(ticket, urls)
      if url then
        leave(name)
        grant(name, ticket, url, cap, tonumber(bound))
      else
        passed = passed + 1
      end
    end
  end
end

-- Whether a job has tried every worker that may get jobs.
local function is_exhausted(tried)
  if #tried < reply.routable then return false end
  local planned_ones = 0
  for _, url in ipairs(tried) do planned_ones = planned_ones + redis.call('HEXISTS', PLAN, url) end
  return planned_ones >= reply.routable
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

local function arrive(arrivals)
  local last_ticket = take_tickets(arrivals)
  local waiting = redis.call('ZCARD', QUEUE)
  for _, arrival in ipairs(arrivals) do
    local number, bound, wait, ticket, tried, retry_of = unpack(arrival)
    local name = holder(number)
    if ticket == 0 then last_ticket = last_ticket + 1; ticket = last_ticket end
    local may_go = retry_of == '' or may_retry(number, retry_of)
    local url, cap
    if may_go and waiting == 0 then url, cap = pick(ticket, tried) end
    if not may_go then
      -- may_retry has told it.
    elseif url then
      grant(name, ticket, url, cap, bound)
    elseif ring_length > 0 and is_exhausted(tried) then
      tell('exhausted', number)
    elseif waiting >= rules.max_waiting then
      tell('refused', number)
    else
      redis.call('ZADD', QUEUE, ticket, name)
      local deadline = string.format('%.0f', now + wait)
      redis.call('HSET', WAITING, name, bound .. ' ' .. deadline .. ' ' .. table.concat(tried, ' '))
      tell('queued', number, ticket)
      waiting = waiting + 1
    end
  end
end
