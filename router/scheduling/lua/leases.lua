-- Leases: giving one, and dropping those whose moment has passed.
--
-- LAPSE is an index of the workers whose leases or rests may pass next. RUNNING_OF has each tenant's leases, by the
-- moments at which they pass. Health checks count as jobs of the tenant `default`.
--
-- Twin     LocalScheduler._lease, _drop_lapsed
-- Reads    WORKER_OF
-- Writes   LEASES_OF, LAPSE, RUNNING_OF; for a trial BREAKER_OF, EJECTED
-- @include context
-- @include room

-- How many jobs of a tenant run, as far as this call has counted them; and how many more run than when the tenant's
-- lines were last put in their places.
local running_of, has_changed = {}, {}

local function count_running(tenant, difference)
  if difference == 0 then return end
  has_changed[tenant] = (has_changed[tenant] or 0) + difference
  if running_of[tenant] then running_of[tenant] = running_of[tenant] + difference end
end

local function running(tenant)
  if not running_of[tenant] then
    running_of[tenant] = redis.call('ZCOUNT', RUNNING_OF .. tenant, '(' .. now, '+inf')
  end
  return running_of[tenant]
end

-- Count the lease as its tenant's; or set its moment anew, if it is counted.
local function run(tenant, name, moment)
  if tenant == DEFAULT and not is_shared then return end
  count_running(tenant, redis.call('ZADD', RUNNING_OF .. tenant, moment, name))
end

local function end_run(tenant, name)
  if tenant == DEFAULT and not is_shared then return end
  count_running(tenant, -redis.call('ZREM', RUNNING_OF .. tenant, name))
end

local function lease(url, cap, name, moment)
  redis.call('ZADD', LEASES_OF .. url, moment, name)
  redis.call('ZADD', LAPSE, 'LT', moment, url)
  if cap == TRIAL then
    redis.call('HSET', BREAKER_OF .. url, 'trial', name)
    -- If no process ever says how the trial went, the next one opens when this lease has passed.
    redis.call('ZADD', EJECTED, moment, url)
    update_room(url)
  elseif is_by_load or resting > 0 or (cap > 0 and redis.call('ZCARD', LEASES_OF .. url) >= cap) then
    update_room(url)
  end
end

local function drop_lapsed()
  for _, url in ipairs(redis.call('ZRANGEBYSCORE', LAPSE, '-inf', now)) do
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', LEASES_OF .. url, '-inf', now)) do
      redis.call('ZREM', LEASES_OF .. url, name)
      end_run(tenant_of(name), name)
    end
    redis.call('ZREM', LAPSE, url)
    local next_one = redis.call('ZRANGE', LEASES_OF .. url, 0, 0, 'WITHSCORES')[2]
    if next_one then redis.call('ZADD', LAPSE, next_one, url) end
    local rest = resting > 0 and Seldom.rest_of(url)
    if rest and rest.moment <= now then
      Seldom.pass_rest(url, rest)
    elseif rest then
      redis.call('ZADD', LAPSE, 'LT', rest.moment, url)
    end
    set_room_anew(url)
  end
end

-- Give a health check a lease on just its worker, which may be one that gets no jobs. Refuse it if the worker is full,
-- or ejected: then its trial is the check. The twin has no health checks, for they need Redis.
local function check(number, url, bound)
  local cap = whole_number(redis.call('HGET', WORKER_OF .. url, 'max_concurrency'), MAX_COUNT, 0)
  if has_slot(url, cap) and not redis.call('ZSCORE', EJECTED, url) then
    lease(url, cap, holder(number), now + bound)
    run(DEFAULT, holder(number), now + bound)
    tell('granted', {number, url, 0})
  else
    tell('refused', number)
  end
end
