-- Leases: giving one, and dropping those whose moment has passed or that their process does not hold.
--
-- LAPSE is an index of the workers whose leases or rests may pass next. RUNNING_OF has each tenant's leases, by the
-- moments at which they pass; those of health checks are nobody's.
--
-- Twin     LocalScheduler._lease, _drop_lapsed, _drop_unheld
-- Reads    WORKERS, WORKER_OF
-- Writes   LEASES_OF, LAPSE, RUNNING_OF; for a trial BREAKER_OF, EJECTED
-- @include context
-- @include rests
-- @include room

-- How many jobs of a tenant run, as far as this call has counted them; and the tenants of which more or fewer run now.
local running_of, has_changed = {}, {}

local function count_running(tenant, difference)
  if difference == 0 then return end
  has_changed[tenant] = true
  if running_of[tenant] then running_of[tenant] = running_of[tenant] + difference end
end

local function running(tenant)
  if not running_of[tenant] then
    redis.call('ZREMRANGEBYSCORE', RUNNING_OF .. tenant, '-inf', now)
    running_of[tenant] = redis.call('ZCARD', RUNNING_OF .. tenant)
  end
  return running_of[tenant]
end

-- Count the lease as its tenant's; or set its moment anew, if it is counted.
local function run(tenant, name, moment)
  count_running(tenant, redis.call('ZADD', RUNNING_OF .. tenant, moment, name))
end

local function end_run(tenant, name) count_running(tenant, -redis.call('ZREM', RUNNING_OF .. tenant, name)) end

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
    local rest = rest_of(url)
    if rest and rest.moment <= now then
      pass_rest(url, rest)
    elseif rest then
      redis.call('ZADD', LAPSE, 'LT', rest.moment, url)
    end
    set_room_anew(url)
  end
end

-- Drop the leases of the calling process that are not in `held`. It reads all leases: after an outage only.
local function drop_unheld(held)
  local is_held = {}
  for _, item in ipairs(held) do
    is_held[item[1] .. ' ' .. lease_name(holder(item[2]), tenant_named(item[4]), item[5])] = true
  end
  for _, url in ipairs(redis.call('SMEMBERS', WORKERS)) do
    local dropped = 0
    for _, name in ipairs(redis.call('ZRANGE', LEASES_OF .. url, 0, -1)) do
      if string.match(name, '^(.*):%d+ ?%S* ?%S*$') == call.process and not is_held[url .. ' ' .. name] then
        end_run(tenant_of(name), name)
        dropped = dropped + redis.call('ZREM', LEASES_OF .. url, name)
      end
    end
    if dropped > 0 then update_room(url) end
  end
end

-- Give a health check a lease on just its worker, which may be one that gets no jobs. Refuse it if the worker is full,
-- or ejected: then its trial is the check. The twin has no health checks, for they need Redis.
local function check(number, url, bound)
  local cap = whole_number(redis.call('HGET', WORKER_OF .. url, 'max_concurrency'), MAX_COUNT, 0)
  if has_room(url, cap) and not redis.call('ZSCORE', EJECTED, url) then
    lease(url, cap, holder(number), now + bound)
    tell('granted', {number, url, 0})
  else
    tell('refused', number)
  end
end
