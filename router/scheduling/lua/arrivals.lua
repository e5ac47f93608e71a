-- Jobs that arrive: each gets a lease at once, waits in its line, or is refused.
--
-- Twin     LocalScheduler._arrive
-- Writes   TICKET
-- @include context
-- @include head
-- @include lines
-- @include order
-- @include queue
-- @include selection

-- Whether a job has tried every worker of its pool that may get jobs and is large enough for it.
local function is_exhausted(pool, tried, its_memory)
  if pool.workers == 0 or #tried == 0 then return false end
  if has_memory and its_memory > 0 then return Shared.has_tried_all(pool, tried, its_memory) end
  if #tried < pool.workers then return false end
  local tried_ones = 0
  for _, url in ipairs(tried) do
    if is_in_room(url, pool.room) then tried_ones = tried_ones + 1 end
  end
  return tried_ones >= pool.workers
end

-- Whether a new attempt of the job `retry_of` is within the fleet's budget, and the job breaks no workers.
local function may_retry(number, retry_of)
  if Seldom.is_quarantined(retry_of) then
    tell('quarantined', number)
  elseif not Seldom.fill_budget(true) then
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
local function may_go_first(tenant, pool, room)
  if not may_go(tenant, pool) then return false end
  if waiting == 0 then return true end
  if lines == 1 then
    local its_tenant, its_pool = sole_line()
    return (pool_named(its_pool) or {}).room ~= room or not may_go(its_tenant, its_pool)
  end
  return not Shared.first_turn(room, {is_done = {}})
end

-- Whether the tenant has as many pending jobs as it may have.
local function is_crowded(tenant)
  if not has_rules then return false end
  local most = Shared.rule_of(tenant).max_waiting
  return most < math.huge and count_pending(tenant) >= most
end

-- Whether a job waits in its line, so that a slow worker gets the shortest one of all that have come.
local function waits_for_shortest(asked, its_pool)
  if not has_order or asked.is_back or not Ordered.goes_by_size(asked.tenant) then return false end
  return Ordered.only_slow_have_room(its_pool) and waiting < rules.max_waiting and not is_crowded(asked.tenant)
end

local function share_if_needed(arrivals)
  for _, arrival in ipairs(arrivals) do
    if not is_shared and tenant_named(arrival[7]) ~= DEFAULT then Shared.share() end
  end
end

-- Read at once what may already be known of the jobs, and of their lines.
local function read_waiting(arrivals)
  if waiting == 0 then return end
  local names, their_lines = {}, {}
  for place, arrival in ipairs(arrivals) do
    names[place], their_lines[place] = holder(arrival[1]), tenant_named(arrival[7]) .. '/' .. arrival[8]
  end
  read_all_asked(names)
  if lines > 1 then Shared.know(their_lines) end
end

local untried = {}

-- The arrivals of usual jobs: each is a number, the bound, the wait, the tenant and the pool.
local function usual_arrivals(came)
  local arrivals = {}
  for place = 1, #came, 5 do
    arrivals[(place + 4) / 5] = {
      came[place], came[place + 1], came[place + 2], 0, untried, '', came[place + 3], came[place + 4], 0,
    }
  end
  return arrivals
end

local function arrive(arrivals)
  share_if_needed(arrivals)
  if may_hedge and call.wishes then arrivals = Hedges.put_aside(arrivals) end
  local last_ticket = take_tickets(arrivals)
  if has_order and call.wishes then arrivals = Ordered.longest_first(arrivals) end
  read_waiting(arrivals)
  for _, arrival in ipairs(arrivals) do
    local number, bound, wait, ticket, tried, retry_of, tenant, pool, memory = unpack(arrival)
    local name = holder(number)
    local asked = {
      bound = bound, deadline = now + wait, tried = tried, tenant = tenant_named(tenant), pool = pool, memory = memory,
      is_back = ticket > 0,
    }
    local wish, has_run = call.wishes and wish_of(number), false
    if ticket == 0 then
      last_ticket = last_ticket + 1
      ticket = last_ticket
      if wish and wish[3] ~= '' and wish[4] == 0 then
        ticket, has_run = Seldom.adopt(number, wish[3], ticket)
        asked.is_back = ticket ~= last_ticket
      end
    end
    local may_try = not has_run and (retry_of == '' or may_retry(number, retry_of))
    if may_try and wish and wish[4] > 0 and Reuse.shares(number, wish[3], ticket, wait + bound) then may_try = false end
    local its_pool = may_try and (pool_named(pool) or Seldom.admit_pool(pool))
    local url, cap
    local may_now = its_pool and is_open(its_pool.room) and may_go_first(asked.tenant, pool, its_pool.room)
    if may_now and not waits_for_shortest(asked, its_pool) then url, cap = pick(its_pool, ticket, asked) end
    if not may_try then
      -- Seldom.adopt, Reuse.shares or may_retry has told it.
    elseif not its_pool then
      tell('unpooled', number)
    elseif url then
      grant(name, ticket, url, cap, asked)
    elseif is_exhausted(its_pool, tried, memory) then
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
