#!lua
-- What one run of the scheduler works on: the call, the rules, the time, and what its parts share.
--
-- ARGV[1]  Call as JSON (router/scheduling/messages.py)
-- ARGV[2]  Rules as JSON
-- ARGV[3]  the time (Unix ms), from tests only: without it Redis' own clock counts
--
-- Names in capitals, such as QUEUE, LEASES_OF and PROCESS_TTL_MS, are keys of router/fleet/schema.py and constants of
-- router/scheduling/redis_scheduler.py. The loader fills in their values.
local call, rules = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local is_by_load = rules.strategy == 'least_loaded'
local reply = {}

-- The plan, as plan.lua loads or makes it.
local ring_length = 0
local fleet_print = ''
local is_plan_stale = false
-- Until this moment a memory that began empty does not know what runs: workers with a cap get no jobs, and every process
-- has time to hand in the leases that it holds. nil: the memory has settled.
local settles_at

-- How many workers rest, and how many of them because they cannot be reached.
local resting, away = 0, 0
-- When the first of the workers whose rests this call was about may get a job; nil: none of them.
local look_at

-- The name of a lease or a pending job of the calling process.
local function holder(number) return call.process .. ':' .. string.format('%.0f', number) end

-- Add values to a list of the reply.
local function tell(field, ...)
  local list = reply[field] or {}
  for _, value in ipairs({...}) do list[#list + 1] = value end
  reply[field] = list
end

-- A number as it is kept, so that the Python twin can round alike.
local function written(number) return string.format('%.3f', number) end

-- A field of a hash that redis-cli may have written: `otherwise`, unless it is a whole number from 1 to `most`.
local function whole_number(text, most, otherwise)
  local number = text and #text <= 10 and string.match(text, '^%d+$') and tonumber(text)
  return number and number >= 1 and number <= most and number or otherwise
end

-- Which workers are ejected because they fail job after job, and which of those may get one job as their trial.
--
-- Twin     router/scheduling/breaker.py, Breakers
-- Reads    WORKERS, WORKER_OF, LEASES_OF
-- Writes   BREAKER_OF, EJECTED
-- @include context

-- Drop what is held against the worker.
local function forget(url)
  redis.call('ZREM', 'sfr:ejected', url)
  redis.call('DEL', 'sfr:breaker:' .. url)
end

local function eject(url, times, cause)
  local moment = now + math.min(rules.base_ms * 2 ^ (times - 1), rules.max_ms)
  redis.call('HSET', 'sfr:breaker:' .. url, 'times', times, 'ejected_until', written(moment / 1000), 'trial', '',
    'cause', cause)
  redis.call('PERSIST', 'sfr:breaker:' .. url)
  redis.call('ZADD', 'sfr:ejected', moment, url)
  is_plan_stale = true
end

local function postpone_trial(url, moment)
  redis.call('HSET', 'sfr:breaker:' .. url, 'trial', '', 'ejected_until', written(moment / 1000))
  redis.call('ZADD', 'sfr:ejected', moment, url)
end

local function open_trial(url)
  local cap = whole_number(redis.call('HGET', 'sfr:worker:' .. url, 'max_concurrency'), 1000000000, 0)
  -- Jobs that timed out there may still run. If they fill the worker, its trial waits for the first lease to pass.
  if cap > 0 and redis.call('ZCARD', 'sfr:leases:' .. url) >= cap then
    postpone_trial(url, redis.call('ZRANGE', 'sfr:leases:' .. url, 0, 0, 'WITHSCORES')[2])
    return
  end
  redis.call('HSET', 'sfr:breaker:' .. url, 'trial', 'open')
  redis.call('ZADD', 'sfr:ejected', '+inf', url)
  is_plan_stale = true
end

local function may_eject_another()
  local fleet = redis.call('SCARD', 'sfr:workers')
  return (redis.call('ZCARD', 'sfr:ejected') + 1) * 100 <= rules.max_ejected_percent * fleet
end

-- Take in what the attempt under the lease `name` says of its worker.
local function judge(url, name, blame, job, cause, ms)
  local held = redis.call('HMGET', 'sfr:breaker:' .. url, 'times', 'trial', 'failures', 'last_error_of')
  local times, trial, failures = held[1], held[2], held[3]
  if trial == name then
    if blame == 'ok' then
      forget(url)
      is_plan_stale = true
    elseif blame == 'none' then
      open_trial(url)
    elseif blame == 'busy' then
      postpone_trial(url, now + math.max(ms, 500))
    elseif blame ~= 'doubt' then -- after a doubt the same lease is judged once more, when more is known
      eject(url, times + 1, cause)
    end
  elseif times then
    return -- ejected: what ran there before says nothing new
  elseif blame == 'ok' and failures then
    redis.call('DEL', 'sfr:breaker:' .. url)
  elseif blame == 'away' and away >= reply.routable then
    return -- no worker can be reached: that is no worker's fault
  elseif blame ~= 'ok' and blame ~= 'none' and blame ~= 'busy' and blame ~= 'doubt' then
    if blame == 'error' then
      if held[4] == job then return end -- one bad job, sent again and again, does not make a bad worker
      redis.call('HSET', 'sfr:breaker:' .. url, 'last_error_of', job)
    end
    local in_a_row = redis.call('HINCRBY', 'sfr:breaker:' .. url, 'failures', 1)
    redis.call('PEXPIRE', 'sfr:breaker:' .. url, 2 * rules.max_ms) -- failures further apart than that are no row
    if in_a_row >= rules.failures and may_eject_another() then eject(url, 1, cause) end
  end
end

-- Which workers rest: those that turn jobs away because they have no room, and those that cannot be reached.
--
-- Twin     router/scheduling/rests.py, Rests
-- Reads    PLAN, EJECTED, QUEUE, LEASES_OF
-- Writes   RESTS (a Rest by URL, as text), PLAN_HEAD (resting, away), LAPSE
-- @include context

local function rest_of(url)
  local text = resting > 0 and redis.call('HGET', 'sfr:rests', url)
  if not text then return end
  local limit, moment, asked, ms, is_away, silence = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    limit = tonumber(limit), moment = tonumber(moment), is_asked = asked == '1', ms = tonumber(ms),
    is_away = is_away == '1', silence = tonumber(silence),
  }
end

local function count_rests(more, more_away)
  resting, away = resting + more, away + more_away
  redis.call('HSET', 'sfr:plan:head', 'resting', resting, 'away', away)
end

local function drop_rest(url, rest)
  redis.call('HDEL', 'sfr:rests', url)
  count_rests(-1, rest.is_away and -1 or 0)
end

local function set_rest(url, rest, before)
  local form = '%.0f %.0f %d %.0f %d %.0f'
  local asked, is_away = rest.is_asked and 1 or 0, rest.is_away and 1 or 0
  redis.call('HSET', 'sfr:rests', url, string.format(form, rest.limit, rest.moment, asked, rest.ms, is_away, rest.silence))
  redis.call('ZADD', 'sfr:lapse', 'LT', rest.moment, url)
  count_rests(before and 0 or 1, is_away - (before and before.is_away and 1 or 0))
end

local function begin_rest(url, rest, before)
  set_rest(url, rest, before)
  look_at = math.min(look_at or rest.moment, rest.moment)
end

-- Take in that the worker has turned a job away; `ms` as in Ended. Return whether it rests now.
local function turn_away(url, is_away, ms)
  if redis.call('HEXISTS', 'sfr:plan', url) == 0 or redis.call('ZSCORE', 'sfr:ejected', url) then return false end
  local before = rest_of(url)
  local rest = {is_asked = false, is_away = is_away, silence = is_away and 500 + 2 * ms or 500}
  if before and not before.is_asked and before.is_away == is_away then
    rest.ms, rest.moment = before.ms, before.moment -- this job was sent before the worker had turned the first one away
  else
    rest.ms = before and math.max(20, math.min(2 * before.ms, 500)) or 20
    rest.moment = now + rest.ms
  end
  rest.limit = is_away and 0 or redis.call('ZCARD', 'sfr:leases:' .. url)
  if not is_away then rest.moment = math.max(rest.moment, now + ms) end
  begin_rest(url, rest, before)
  return true
end

-- Take in that the worker has answered a job. Return whether that changes its rest.
local function hear_of_answer(url)
  local rest = rest_of(url)
  if not rest or not rest.is_asked then return false end
  if rest.is_away then
    drop_rest(url, rest)
  else
    rest.limit, rest.ms = rest.limit + 1, 0
    set_rest(url, rest, rest)
  end
  return true
end

-- Let the worker, whose rest is over, get one more job.
local function pass_rest(url, rest)
  local running = redis.call('ZCARD', 'sfr:leases:' .. url)
  local is_wanted = redis.call('ZCARD', 'sfr:queue') > 0
  if rest.is_asked and (rest.is_away or not is_wanted and running < rest.limit) then
    drop_rest(url, rest)
    return
  end
  rest.limit = rest.is_away and running + 1 or rest.limit + 1
  rest.is_asked, rest.moment = true, now + rest.silence
  begin_rest(url, rest, rest)
end

-- After a new plan: drop the rests of workers that get no jobs anyway, and count the others.
local function count_rests_anew(workers)
  local is_planned = {}
  for _, worker in ipairs(workers) do is_planned[worker.url] = true end
  local urls = redis.call('HKEYS', 'sfr:rests')
  resting, away = #urls, 0
  for _, url in ipairs(urls) do
    local rest = rest_of(url)
    if rest.is_away then away = away + 1 end
    if not is_planned[url] then drop_rest(url, rest) end
  end
  if resting > 0 then count_rests(0, 0) end
end

-- Which workers have room for a job. ROOM is an index of them, so that the cost of a job does not grow with the fleet.
--
-- A member of ROOM is '<place> <cap> <weight> <url>'. Its score is the place in the ring; with least_loaded it is the
-- number of leases by weight, and the place is 0.
--
-- Twin     LocalScheduler.has_room
-- Reads    PLAN, LEASES_OF, BREAKER_OF
-- Writes   ROOM
-- @include context
-- @include rests

local function planned(url)
  local entry = redis.call('HGET', 'sfr:plan', url)
  if entry then
    local cap, weight, places = string.match(entry, '^(%S+) (%S+) (%S+)$')
    return tonumber(cap), tonumber(weight), places
  end
end

local function set_room(url, cap, weight, places, is_open)
  for place in string.gmatch(places, '%d+') do
    local member = place .. ' ' .. cap .. ' ' .. weight .. ' ' .. url
    if not is_open then
      redis.call('ZREM', 'sfr:room', member)
    elseif is_by_load then
      redis.call('ZADD', 'sfr:room', redis.call('ZCARD', 'sfr:leases:' .. url) / weight, member)
    else
      redis.call('ZADD', 'sfr:room', place, member)
    end
  end
end

local function has_room(url, cap)
  if cap == (-1) then return redis.call('HGET', 'sfr:breaker:' .. url, 'trial') == 'open' end
  local rest = rest_of(url)
  if rest and redis.call('ZCARD', 'sfr:leases:' .. url) >= rest.limit then return false end
  return cap == 0 or not settles_at and redis.call('ZCARD', 'sfr:leases:' .. url) < cap
end

-- Correct ROOM for a worker that may have room now, or may have none any more.
local function set_room_anew(url)
  local cap, weight, places = planned(url)
  if cap then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- Correct ROOM for a worker of which only the number of leases has changed.
local function update_room(url)
  local cap, weight, places = planned(url)
  if cap and (cap ~= 0 or is_by_load or resting > 0) then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- Leases: giving one, and dropping those whose moment has passed or that their process does not hold.
--
-- LAPSE is an index of the workers whose leases or rests may pass next.
--
-- Twin     LocalScheduler._lease, _drop_lapsed, _drop_unheld
-- Reads    WORKERS, WORKER_OF
-- Writes   LEASES_OF, LAPSE; for a trial BREAKER_OF, EJECTED
-- @include context
-- @include rests
-- @include room

local function lease(url, cap, name, moment)
  redis.call('ZADD', 'sfr:leases:' .. url, moment, name)
  redis.call('ZADD', 'sfr:lapse', 'LT', moment, url)
  if cap == (-1) then
    redis.call('HSET', 'sfr:breaker:' .. url, 'trial', name)
    -- If no process ever says how the trial went, the next one opens when this lease has passed.
    redis.call('ZADD', 'sfr:ejected', moment, url)
    update_room(url)
  elseif is_by_load or resting > 0 or (cap > 0 and redis.call('ZCARD', 'sfr:leases:' .. url) >= cap) then
    update_room(url)
  end
end

local function drop_lapsed()
  for _, url in ipairs(redis.call('ZRANGEBYSCORE', 'sfr:lapse', '-inf', now)) do
    redis.call('ZREMRANGEBYSCORE', 'sfr:leases:' .. url, '-inf', now)
    redis.call('ZREM', 'sfr:lapse', url)
    local next_one = redis.call('ZRANGE', 'sfr:leases:' .. url, 0, 0, 'WITHSCORES')[2]
    if next_one then redis.call('ZADD', 'sfr:lapse', next_one, url) end
    local rest = rest_of(url)
    if rest and rest.moment <= now then
      pass_rest(url, rest)
    elseif rest then
      redis.call('ZADD', 'sfr:lapse', 'LT', rest.moment, url)
    end
    set_room_anew(url)
  end
end

-- Drop the leases of the calling process that are not in `held`. It reads all leases: after an outage only.
local function drop_unheld(held)
  local is_held = {}
  for _, item in ipairs(held) do is_held[item[1] .. ' ' .. holder(item[2])] = true end
  for _, url in ipairs(redis.call('SMEMBERS', 'sfr:workers')) do
    local dropped = 0
    for _, name in ipairs(redis.call('ZRANGE', 'sfr:leases:' .. url, 0, -1)) do
      if string.match(name, '^(.*):%d+$') == call.process and not is_held[url .. ' ' .. name] then
        dropped = dropped + redis.call('ZREM', 'sfr:leases:' .. url, name)
      end
    end
    if dropped > 0 then update_room(url) end
  end
end

-- Give a health check a lease on just its worker, which may be one that gets no jobs. Refuse it if the worker is full,
-- or ejected: then its trial is the check. The twin has no health checks, for they need Redis.
local function check(number, url, bound)
  local cap = whole_number(redis.call('HGET', 'sfr:worker:' .. url, 'max_concurrency'), 1000000000, 0)
  if has_room(url, cap) and not redis.call('ZSCORE', 'sfr:ejected', url) then
    lease(url, cap, holder(number), now + bound)
    tell('granted', {number, url, 0})
  else
    tell('refused', number)
  end
end

-- How much the whole fleet may retry: a bucket that jobs and seconds fill, and from which each retry takes one.
--
-- Twin     router/scheduling/retry_budget.py, RetryBudget
-- Reads    TICKET
-- Writes   BUDGET: what is saved, and the tickets and the moment up to which it is filled
-- @include context

-- Fill the bucket by the tickets and the time since. With `is_retry` take one retry out; return whether there was one.
local function fill_budget(is_retry)
  local held = redis.call('HMGET', 'sfr:budget', 'saved', 'tickets', 'filled_at')
  local tickets, saved = tonumber(redis.call('GET', 'sfr:ticket') or 0), rules.budget_per_second
  if held[1] then
    local elapsed = now - held[3]
    local earned = math.max(0, tickets - held[2]) * rules.budget_percent / 100
    saved = held[1] * math.max(0, 1 - elapsed / 10000) + earned + elapsed * rules.budget_per_second / 1000
    saved = tonumber(written(saved))
  end
  local has_one = saved >= 1
  if is_retry and has_one then saved = saved - 1 end
  redis.call('HSET', 'sfr:budget', 'saved', written(saved), 'tickets', tickets, 'filled_at', now)
  return has_one
end

-- A process' heartbeat: it shows that the process lives, sets leases again that Redis has lost, and looks for its jobs.
--
-- Twin     LocalScheduler._hear_beat
-- Reads    WAITING
-- Writes   PROCESSES, PROCESS_OF, LEASES_OF, LAPSE, QUARANTINE (only what has passed)
-- @include context
-- @include leases
-- @include retry_budget
-- @include room

-- The arguments are Beat's fields (router/scheduling/messages.py).
local function hear_beat(running, waiting, oldest, held, is_return)
  fill_budget(false)
  redis.call('ZREMRANGEBYSCORE', 'sfr:quarantine', '-inf', now)
  redis.call('ZADD', 'sfr:processes', now, call.process)
  redis.call('ZREMRANGEBYSCORE', 'sfr:processes', '-inf', now - 2000)
  reply.processes = redis.call('ZCARD', 'sfr:processes')
  local key = 'sfr:process:' .. call.process
  redis.call('HSET', key, 'heartbeat', math.floor(now / 1000), 'leases', running, 'waiting', waiting)
  redis.call('PEXPIRE', key, 2000)
  if is_return then drop_unheld(held) end
  for _, item in ipairs(held) do
    local url, number, left = unpack(item)
    if redis.call('ZADD', 'sfr:leases:' .. url, 'NX', now + left, holder(number)) == 1 then
      redis.call('ZADD', 'sfr:lapse', 'LT', now + left, url)
      update_room(url)
    end
  end
  for _, number in ipairs(oldest) do
    if redis.call('HEXISTS', 'sfr:waiting', holder(number)) == 0 then tell('missing', number) end
  end
end

-- The ring of round robin: smooth weighted round robin over classes of workers of equal weight.
--
-- Twin     router/scheduling/ring.py, weighted_ring

-- Add to the `places` of each worker its places in the ring; return the ring's length.
local function lay_ring(workers)
  local classes, by_weight, total = {}, {}, 0
  for _, worker in ipairs(workers) do
    local class = by_weight[worker.weight]
    if not class then
      class = {credit = 0, turns = 0, weight = worker.weight}
      by_weight[worker.weight] = class
      classes[#classes + 1] = class
    end
    class[#class + 1] = worker
  end
  local function gcd(a, b) return b == 0 and a or gcd(b, a % b) end
  local divisor = 0
  for _, class in ipairs(classes) do divisor = gcd(class.weight, divisor) end
  for _, class in ipairs(classes) do
    class.share = class.weight / divisor * #class
    total = total + class.share
  end
  for place = 0, total - 1 do
    local chosen
    for _, class in ipairs(classes) do
      class.credit = class.credit + class.share
      if not chosen or class.credit > chosen.credit then chosen = class end
    end
    chosen.credit = chosen.credit - total
    local places = chosen[chosen.turns % #chosen + 1].places
    places[#places + 1] = string.format('%.0f', place)
    chosen.turns = chosen.turns + 1
  end
  return total
end

-- The plan: which workers may get jobs, with which cap, weight and places in the ring.
--
-- It is kept between calls, and made anew when the fleet or an ejection has changed. Only this reads all workers.
--
-- Twin     router/scheduling/plan.py, Plan
-- Reads    WORKERS, WORKER_OF, DRAIN, BREAKER_OF
-- Writes   PLAN, PLAN_HEAD (apart from PLAN, for each call reads it), ROOM, EJECTED, FINISHED, RESTS
-- @include context
-- @include breaker
-- @include rests
-- @include ring
-- @include room

-- Load the head of the plan, and find out whether the plan is stale.
local function load_plan()
  local head = redis.call('HMGET', 'sfr:plan:head', 'ring', 'workers', 'strategy', 'print', 'stale', 'settles_at', 'resting',
    'away')
  fleet_print = head[4] or ''
  ring_length, reply.routable = tonumber(head[1]) or 0, tonumber(head[2]) or 0
  if head[7] and redis.call('EXISTS', 'sfr:rests') == 1 then resting, away = tonumber(head[7]), tonumber(head[8]) end
  if call.fleet_print and call.fleet_print ~= fleet_print then fleet_print, is_plan_stale = call.fleet_print, true end
  if not head[1] or head[5] or head[3] ~= rules.strategy then is_plan_stale = true end
  settles_at = head[1] and tonumber(head[6]) or not head[1] and now + 2000 or nil
  if settles_at and settles_at <= now then settles_at, is_plan_stale = nil, true end
end

-- The workers that may get jobs: the healthy ones; if there are none, those that have not been checked.
local function candidates()
  local urls = redis.call('SMEMBERS', 'sfr:workers')
  table.sort(urls)
  local is_draining, is_known = {}, {}
  -- Operators write DRAIN by hand. If it is of another type, the answer is an error, and no worker is drained.
  for _, url in ipairs(redis.pcall('SMEMBERS', 'sfr:drain')) do is_draining[url] = true end
  local by_health = {healthy = {}, unknown = {}, unhealthy = {}}
  for _, url in ipairs(urls) do
    is_known[url] = true
    local held = redis.pcall('HMGET', 'sfr:worker:' .. url, 'health', 'weight', 'max_concurrency')
    if held.err then held = {} end -- a key of another type: nothing is known of the worker
    local is_ejected = redis.call('ZSCORE', 'sfr:ejected', url)
    if is_ejected and held[1] == 'unhealthy' then forget(url) end -- the sidecar will let it back in
    local is_trial = is_ejected and redis.call('HGET', 'sfr:breaker:' .. url, 'trial') == 'open'
    if not is_draining[url] and (not is_ejected or is_trial) then
      local group = by_health[held[1]] or by_health.unknown
      local cap = is_trial and (-1) or whole_number(held[3], 1000000000, 0)
      group[#group + 1] = {url = url, weight = whole_number(held[2], 100, 1), cap = cap, places = {}}
    end
  end
  for _, url in ipairs(redis.call('ZRANGE', 'sfr:ejected', 0, -1)) do
    if not is_known[url] then forget(url) end
  end
  for _, url in ipairs(redis.call('ZRANGE', 'sfr:finished', 0, -1)) do
    if not is_known[url] then redis.call('ZREM', 'sfr:finished', url) end
  end
  return #by_health.healthy > 0 and by_health.healthy or by_health.unknown
end

local function make_plan_if_stale()
  if not is_plan_stale then return end
  is_plan_stale = false
  redis.call('DEL', 'sfr:plan', 'sfr:plan:head', 'sfr:room')
  local workers = candidates()
  count_rests_anew(workers)
  ring_length = lay_ring(workers)
  for _, worker in ipairs(workers) do
    local places = is_by_load and '0' or table.concat(worker.places, ',')
    redis.call('HSET', 'sfr:plan', worker.url, worker.cap .. ' ' .. worker.weight .. ' ' .. places)
    set_room(worker.url, worker.cap, worker.weight, places, has_room(worker.url, worker.cap))
  end
  redis.call('HSET', 'sfr:plan:head', 'ring', ring_length, 'workers', #workers, 'strategy', rules.strategy,
    'print', fleet_print)
  if settles_at then redis.call('HSET', 'sfr:plan:head', 'settles_at', string.format('%.0f', settles_at)) end
  reply.routable = #workers
end

-- Which jobs break workers, and are refused for a while.
--
-- A death is a connection that broke under a job. A field of SUSPECT_OF is '<share of the evidence> <time of death>',
-- by URL.
--
-- Twin     router/scheduling/quarantine.py, Quarantine
-- Reads    WORKERS, DRAIN, LEASES_OF
-- Writes   QUARANTINE, SUSPECT_OF, BROKEN_OF, DEATHS; tells CHANGES
-- @include context

-- Return whether another worker has just died under another job. If so, let go of the jobs just convicted.
local function hear_of_outage(job, url)
  redis.call('ZREMRANGEBYSCORE', 'sfr:deaths', '-inf', now - 2000)
  redis.call('ZADD', 'sfr:deaths', now, job .. ' ' .. url)
  redis.call('PEXPIRE', 'sfr:deaths', 2000)
  for _, death in ipairs(redis.call('ZREVRANGE', 'sfr:deaths', 0, 16 - 1)) do
    local other_job, other_url = string.match(death, '^(%S*) (.*)$')
    if other_job ~= job and other_url ~= url then
      local lately = now - 2000 + rules.quarantine_ms
      for _, convicted in ipairs(redis.call('ZRANGEBYSCORE', 'sfr:quarantine', '(' .. lately, '+inf')) do
        if convicted ~= job then redis.call('ZREM', 'sfr:quarantine', convicted) end
      end
      return true
    end
  end
  return false
end

-- Return the deaths that are held against a job: none if the last one is longer ago than the job would be refused.
local function deaths_of(suspect)
  local held, deaths, last = redis.call('HGETALL', suspect), {}, 0
  for index = 1, #held, 2 do
    local share, at = string.match(held[index + 1], '^(%S+) ?(%S*)$')
    at = tonumber(at) or 0
    deaths[#deaths + 1] = {url = held[index], share = tonumber(share), at = at}
    last = math.max(last, at)
  end
  if last > now - rules.quarantine_ms then return deaths end
  redis.call('DEL', suspect)
  return {}
end

-- Take in that the connection died on which `job` ran under the lease `name`, `ran` ms after it had begun. That is
-- evidence of 1 against the jobs that the worker ran, shared among them.
local function hear_of_death(job, url, name, ran)
  -- A worker that is drained, or has left the fleet, was to end anyway.
  if redis.call('SISMEMBER', 'sfr:workers', url) == 0 or redis.call('SISMEMBER', 'sfr:drain', url) == 1 then return end
  local broken, suspect = 'sfr:broken:' .. url, 'sfr:suspect:' .. job
  redis.call('ZREMRANGEBYSCORE', broken, '-inf', now - 2000)
  redis.call('ZADD', broken, now, name)
  redis.call('PEXPIRE', broken, 2000)
  local is_outage = hear_of_outage(job, url)
  local shared = redis.call('ZCARD', 'sfr:leases:' .. url) + redis.call('ZCARD', broken)
  local share = tonumber(written((is_outage and 0.3 or 1) / shared))
  local evidence = 0
  for _, death in ipairs(deaths_of(suspect)) do
    -- A death on this worker, or one that this run has outlived, is of one cause with this death: together they are one
    -- piece of evidence.
    if death.url == url or death.at > now - ran then
      share = math.max(share, death.share)
      redis.call('HDEL', suspect, death.url)
    else
      evidence = evidence + death.share
    end
  end
  evidence = evidence + share
  redis.call('HSET', suspect, url, written(share) .. ' ' .. string.format('%.0f', now))
  redis.call('PEXPIRE', suspect, rules.quarantine_ms)
  if evidence < 1.99 then
    redis.call('ZREM', 'sfr:quarantine', job)
  elseif redis.call('ZADD', 'sfr:quarantine', now + rules.quarantine_ms, job) == 1 then
    redis.call('PUBLISH', 'sfr:changes', 'quarantine') -- so that all routers know before the client sends the job again
  end
end

-- The job has been done well: what died under it before died of something else.
local function exonerate(job)
  redis.call('DEL', 'sfr:suspect:' .. job)
  redis.call('ZREM', 'sfr:quarantine', job)
end

local function is_quarantined(job)
  return tonumber(redis.call('ZSCORE', 'sfr:quarantine', job) or 0) > now
end

-- Which worker with room a ticket gets: from its place in the ring on, from a random place on, or the least loaded.
--
-- Twin     router/scheduling/plan.py, Plan.in_order
-- Reads    ROOM
-- @include context

local function parsed(member)
  local cap, url = string.match(member, '^%S+ (%S+) %S+ (.*)$')
  return url, tonumber(cap)
end

-- The first of ROOM's members between two scores, from `offset` on, that the job has not tried.
local function first_untried(low, high, offset, count, is_tried)
  while count > 0 do
    local members = redis.call('ZRANGEBYSCORE', 'sfr:room', low, high, 'LIMIT', offset, math.min(count, 8))
    for _, member in ipairs(members) do
      local url, cap = parsed(member)
      if not is_tried[url] then return url, cap end
    end
    if #members < 8 then return end
    offset, count = offset + 8, count - 8
  end
end

local function pick_from_ring(place, is_tried)
  local url, cap = first_untried(place, '+inf', 0, ring_length, is_tried)
  if not url then url, cap = first_untried('-inf', '(' .. place, 0, ring_length, is_tried) end
  return url, cap
end

local function pick_by_load(ticket, is_tried)
  local lowest = redis.call('ZRANGE', 'sfr:room', 0, 0, 'WITHSCORES')[2]
  while lowest do
    local ties = redis.call('ZCOUNT', 'sfr:room', lowest, lowest)
    local offset = ticket % ties
    local url, cap = first_untried(lowest, lowest, offset, ties - offset, is_tried)
    if not url then url, cap = first_untried(lowest, lowest, 0, offset, is_tried) end
    if url then return url, cap end
    lowest = redis.call('ZRANGEBYSCORE', 'sfr:room', '(' .. lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
end

-- Return the URL and the cap of a worker that has room and is not among `tried`; nothing if there is none.
local function pick(ticket, tried)
  if ring_length == 0 then return end
  local is_tried = {}
  for _, url in ipairs(tried) do is_tried[url] = true end
  if is_by_load then return pick_by_load(ticket, is_tried) end
  local start = rules.strategy == 'random' and (call.seed or 0) + 40507 * ticket or ticket
  return pick_from_ring(start % ring_length, is_tried)
end

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
  redis.call('ZREM', 'sfr:queue', name)
  redis.call('HDEL', 'sfr:waiting', name)
end

local alive = {[call.process] = true}
local function is_alive(process)
  if alive[process] == nil then
    local beat = redis.call('ZSCORE', 'sfr:processes', process)
    alive[process] = beat and now - beat < 2000 or false
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
    lease(url, cap, name, now + 1000)
    local list = 'sfr:grants:' .. process
    redis.call('RPUSH', list, cjson.encode({tonumber(number), url, ticket}))
    redis.call('PEXPIRE', list, 2000 + 1000)
  end
end

-- Take up a grant that came through the list, for `bound` ms from now on.
local function claim(url, number, bound)
  local name, moment = holder(number), now + bound
  if redis.call('ZSCORE', 'sfr:leases:' .. url, name) then
    redis.call('ZADD', 'sfr:leases:' .. url, moment, name)
    redis.call('ZADD', 'sfr:lapse', 'LT', moment, url)
    if redis.call('HGET', 'sfr:breaker:' .. url, 'trial') == name then redis.call('ZADD', 'sfr:ejected', moment, url) end
    leave(name)
    tell('claimed', number)
  else
    tell('lost', number)
  end
end

-- Give room to pending jobs, the first in the queue first. Those that have tried all workers with room are passed over.
local function serve_queue()
  local passed = 0
  while passed < 16 and redis.call('EXISTS', 'sfr:room') == 1 do
    local head = redis.call('ZRANGE', 'sfr:queue', passed, passed, 'WITHSCORES')
    if not head[1] then return end
    local name, ticket = head[1], tonumber(head[2])
    local bound, deadline, tried = string.match(redis.call('HGET', 'sfr:waiting', name) or '0 0 ', '^(%S+) (%S+) (.*)$')
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
  for _, url in ipairs(tried) do planned_ones = planned_ones + redis.call('HEXISTS', 'sfr:plan', url) end
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
  local last = fresh > 0 and redis.call('INCRBY', 'sfr:ticket', fresh) or nil
  if newest > 0 then -- after Redis has lost its memory the counter goes on above the tickets in hand
    local counter = last or tonumber(redis.call('GET', 'sfr:ticket') or 0)
    if newest > counter then
      last = newest + fresh
      redis.call('SET', 'sfr:ticket', string.format('%.0f', last))
    end
  end
  return fresh > 0 and last - fresh or 0
end

local function arrive(arrivals)
  local last_ticket = take_tickets(arrivals)
  local waiting = redis.call('ZCARD', 'sfr:queue')
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
      redis.call('ZADD', 'sfr:queue', ticket, name)
      local deadline = string.format('%.0f', now + wait)
      redis.call('HSET', 'sfr:waiting', name, bound .. ' ' .. deadline .. ' ' .. table.concat(tried, ' '))
      tell('queued', number, ticket)
      waiting = waiting + 1
    end
  end
end

-- The scheduler: does all that one call of a router process says, in one atomic step. It ends leases, drops those whose
-- moment has passed, and gives room to pending jobs in order of arrival.
--
-- The line `#!lua` makes a Redis without memory refuse the whole call. Else Redis would refuse only calls whose first
-- command takes memory, and would seem available and unavailable in turn.
--
-- KEYS[1]  plan: it names the Cluster slot
-- ARGV     as context.lua has them
-- Twin     router/scheduling/local_scheduler.py, LocalScheduler.step: hypothesis runs the two against each other
-- Reads    FLEET, EJECTED, QUEUE
-- Writes   LEASES_OF, FINISHED, and what the parts write
-- Returns  Reply as JSON (router/scheduling/messages.py)
-- @include context
-- @include breaker
-- @include heartbeat
-- @include leases
-- @include plan
-- @include quarantine
-- @include queue
-- @include rests
-- @include room

local has_finished = {}

-- Take in what became of a lease. The arguments are Ended's fields.
local function end_attempt(url, number, blame, is_over, job, cause, ms)
  local name = holder(number)
  if is_over and redis.call('ZREM', 'sfr:leases:' .. url, name) == 1 then update_room(url) end
  if blame == 'busy' or blame == 'away' then
    if turn_away(url, blame == 'away', ms) then set_room_anew(url) end
  elseif resting > 0 and (blame == 'ok' or blame == 'error' or blame == 'doubt') then
    if hear_of_answer(url) then set_room_anew(url) end
  end
  judge(url, name, blame, job, cause, ms)
  if blame == 'died' then hear_of_death(job, url, name, ms) end
  if blame == 'ok' then
    if job ~= '' then exonerate(job) end
    has_finished[url] = true
  end
end

if redis.call('HEXISTS', 'sfr:fleet', 'written_at') == 0 then return '{"has_fleet":false}' end
load_plan()
make_plan_if_stale()
for _, ended in ipairs(call.ended or {}) do end_attempt(unpack(ended)) end
-- The sidecar reads it: a worker that ends jobs well is not dead, even if it is too busy to answer a health check.
for url in pairs(has_finished) do redis.call('ZADD', 'sfr:finished', now, url) end
for _, claimed in ipairs(call.claims or {}) do claim(unpack(claimed)) end
drop_lapsed()
for _, url in ipairs(redis.call('ZRANGEBYSCORE', 'sfr:ejected', '-inf', now)) do open_trial(url) end
make_plan_if_stale()
if call.beat then hear_beat(unpack(call.beat)) end
for _, number in ipairs(call.left or {}) do leave(holder(number)) end
serve_queue()
if call.arrived then
  arrive(call.arrived)
  serve_queue()
end
for _, wanted in ipairs(call.checks or {}) do check(unpack(wanted)) end
reply.waiting, reply.settles, reply.away = redis.call('ZCARD', 'sfr:queue'), settles_at ~= nil, away
if look_at then reply.look_in_ms = look_at - now end
return cjson.encode(reply)
