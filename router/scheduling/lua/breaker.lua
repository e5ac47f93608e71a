-- Which workers are ejected because they fail job after job, and which of those may get one job as their trial.
--
-- Twin     router/scheduling/local/breaker.py, Breakers
-- Reads    WORKERS, WORKER_OF, LEASES_OF
-- Writes   BREAKER_OF, EJECTED
-- @include context
-- @include journal

-- Drop what is held against the worker.
local function forget(url)
  redis.call('ZREM', EJECTED, url)
  redis.call('DEL', BREAKER_OF .. url)
end

local function eject(url, times, cause, failures)
  local for_ms = math.min(rules.base_ms * 2 ^ (times - 1), rules.max_ms)
  local moment = now + for_ms
  redis.call('HSET', BREAKER_OF .. url, 'times', times, 'ejected_until', written(moment / 1000), 'trial', '',
    'cause', cause)
  redis.call('PERSIST', BREAKER_OF .. url)
  redis.call('ZADD', EJECTED, moment, url)
  is_plan_stale = true
  Seldom.note_ejection(url, times, failures, cause, for_ms)
end

local function postpone_trial(url, moment)
  redis.call('HSET', BREAKER_OF .. url, 'trial', '', 'ejected_until', written(moment / 1000))
  redis.call('ZADD', EJECTED, moment, url)
end

local function open_trial(url)
  local cap = whole_number(redis.call('HGET', WORKER_OF .. url, 'max_concurrency'), MAX_COUNT, 0)
  -- Jobs that timed out there may still run. If they fill the worker, its trial waits for the first lease to pass.
  if cap > 0 and leases_on(url) >= cap then
    postpone_trial(url, redis.call('ZRANGE', LEASES_OF .. url, 0, 0, 'WITHSCORES')[2])
    return
  end
  redis.call('HSET', BREAKER_OF .. url, 'trial', 'open')
  redis.call('ZADD', EJECTED, '+inf', url)
  is_plan_stale = true
end

local function may_eject_another()
  local fleet = redis.call('SCARD', WORKERS)
  return (redis.call('ZCARD', EJECTED) + 1) * 100 <= rules.max_ejected_percent * fleet
end

-- Whether any of the workers of the jobs that have ended has a breaker with something to tell.
local has_breakers = true

local function look_for_breakers(urls)
  has_breakers = false
  for first = 1, #urls, WORDS_A_COMMAND do
    local keys = {}
    for place = first, math.min(#urls, first + WORDS_A_COMMAND - 1) do
      keys[#keys + 1] = BREAKER_OF .. urls[place]
    end
    has_breakers = has_breakers or redis.call('EXISTS', unpack(keys)) > 0
  end
end

-- Take in what the attempt under the lease `name` says of its worker.
local function judge(url, name, blame, job, cause, ms)
  local is_trouble = blame ~= 'ok' and blame ~= 'none' and blame ~= 'busy' and blame ~= 'doubt'
  if not has_breakers and not is_trouble then return end
  has_breakers = true
  local held = redis.call('HMGET', BREAKER_OF .. url, 'times', 'trial', 'failures', 'last_error_of')
  local times, trial, failures = held[1], held[2], held[3]
  if trial == name then
    if blame == 'ok' then
      forget(url)
      is_plan_stale = true
      Seldom.note_return(url, 'its trial job ended well')
    elseif blame == 'none' then
      open_trial(url)
    elseif blame == 'busy' then
      postpone_trial(url, now + math.max(ms, REST_MAX_MS))
    elseif blame ~= 'doubt' then -- after a doubt the same lease is judged once more, when more is known
      eject(url, times + 1, cause, failures)
    end
  elseif times then
    return -- ejected: what ran there before says nothing new
  elseif blame == 'ok' and failures then
    redis.call('DEL', BREAKER_OF .. url)
  elseif blame == 'away' and away >= reply.routable then
    return -- no worker can be reached: that is no worker's fault
  elseif is_trouble then
    if blame == 'error' then
      if held[4] == job then return end -- one bad job, sent again and again, does not make a bad worker
      redis.call('HSET', BREAKER_OF .. url, 'last_error_of', job)
    end
    local in_a_row = redis.call('HINCRBY', BREAKER_OF .. url, 'failures', 1)
    redis.call('PEXPIRE', BREAKER_OF .. url, 2 * rules.max_ms) -- failures further apart than that are no row
    if in_a_row >= rules.failures and may_eject_another() then eject(url, 1, cause, in_a_row) end
  end
end
