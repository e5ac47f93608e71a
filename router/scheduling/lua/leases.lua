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
local running_of, has_changed, changed_tenants = {}, {}, {}
-- Changes that are written together: by tenant the leases that are to be counted no longer, and those to be counted,
-- each as its moment and its name.
local ended_runs, new_runs = {}, {}

local function listed(lists, name)
  local list = lists[name]
  if not list then
    list = {}
    lists[name] = list
  end
  return list
end

local function count_running(tenant, difference)
  if difference == 0 then return end
  if not has_changed[tenant] then
    has_changed[tenant], changed_tenants[#changed_tenants + 1] = 0, tenant
  end
  has_changed[tenant] = has_changed[tenant] + difference
  if running_of[tenant] then running_of[tenant] = running_of[tenant] + difference end
end

local function running(tenant)
  if not running_of[tenant] then
    local count = redis.call('ZCOUNT', RUNNING_OF .. tenant, '(' .. now, '+inf')
    running_of[tenant] = count + (new_runs[tenant] and #new_runs[tenant] / 2 or 0)
  end
  return running_of[tenant]
end

-- Count the lease as its tenant's; or set its moment anew, if it is counted.
local function run(tenant, name, moment)
  if tenant == DEFAULT and not is_shared then return end
  count_running(tenant, redis.call('ZADD', RUNNING_OF .. tenant, moment, name))
end

-- Count a lease, which is new, as its tenant's.
local function begin_run(tenant, name, moment)
  if tenant == DEFAULT and not is_shared then return end
  local list = listed(new_runs, tenant)
  list[#list + 1], list[#list + 2] = moment, name
  count_running(tenant, 1)
end

local function end_run(tenant, name)
  if tenant == DEFAULT and not is_shared then return end
  local list = listed(ended_runs, tenant)
  list[#list + 1] = name
end

-- Look at the worker again when this moment has passed.
local function lapse_at(url, moment)
  local worker = worker_at(url)
  if not worker.lapses_at or moment < worker.lapses_at then worker.lapses_at = moment end
end

-- Count the leases that have ended no longer. From here on `running` is right.
local function write_ended_runs()
  for tenant, names in pairs(ended_runs) do count_running(tenant, -call_with(names, 'ZREM', RUNNING_OF .. tenant)) end
  ended_runs = {}
end

-- Write what is left to be written of leases.
local function write_leases()
  write_ended_runs()
  for tenant, words in pairs(new_runs) do call_with(words, 'ZADD', RUNNING_OF .. tenant) end
  new_runs = {}
  local words = {}
  for url, worker in pairs(workers) do
    write_leases_on(worker)
    if worker.lapses_at then
      words[#words + 1], words[#words + 2] = worker.lapses_at, url
      worker.lapses_at = false
    end
  end
  for first = 1, #words, WORDS_A_COMMAND do
    redis.call('ZADD', LAPSE, 'LT', unpack(words, first, math.min(#words, first + WORDS_A_COMMAND - 1)))
  end
end

local function lease(url, cap, name, moment)
  local worker = worker_at(url)
  add_lease(worker, name, moment)
  if not worker.lapses_at or moment < worker.lapses_at then worker.lapses_at = moment end
  if cap == TRIAL then
    redis.call('HSET', BREAKER_OF .. url, 'trial', name)
    -- If no process ever says how the trial went, the next one opens when this lease has passed.
    redis.call('ZADD', EJECTED, moment, url)
    update_room(url)
  elseif is_by_load or resting > 0 or starting > 0 or (cap > 0 and count_leases(worker) >= cap) then
    update_room(url)
  end
end

local function drop_lapsed()
  local has_stepped = false
  for _, url in ipairs(redis.call('ZRANGEBYSCORE', LAPSE, '-inf', now)) do
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', LEASES_OF .. url, '-inf', now)) do
      drop_lease(url, name)
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
    local start = starting > 0 and Seldom.start_of(url)
    if start and Seldom.go_on(url, start) then has_stepped = true end
    set_room_anew(url)
  end
  if has_stepped then Seldom.look_at_starts() end
end

-- Give a health check a lease on just its worker, which may be one that gets no jobs. Refuse it if the worker is full,
-- or ejected: then its trial is the check. The twin has no health checks, for they need Redis.
local function check(number, url, bound)
  local cap = whole_number(redis.call('HGET', WORKER_OF .. url, 'max_concurrency'), MAX_COUNT, 0)
  if has_slot(url, cap) and not redis.call('ZSCORE', EJECTED, url) then
    lease(url, cap, holder(number), now + bound)
    begin_run(DEFAULT, holder(number), now + bound)
    tell('granted', {number, url, 0})
  else
    tell('refused', number)
  end
end
