#!lua
-- The one atomic step: ends leases, drops those past their moment, gives room to jobs in order of arrival.
-- policy/exchange.py is its twin, line for line in what it decides; hypothesis runs the two against each other. Health
-- checks alone have no twin: they need Redis.
-- KEYS: plan (it names the Cluster slot; all keys share the prefix).  ARGV: Call as JSON, prefix, Rules as JSON,
-- PROCESS_TTL_MS, CLAIM_WITHIN_MS, PASSED_OVER_AT_MOST, SETTLE_MS, BUDGET_WINDOW_MS, BROKEN_WITHIN_MS, ENOUGH_EVIDENCE,
-- REST_FIRST_MS, REST_MAX_MS, SILENCE_MS, OUTAGE_SHARE, DEATHS_LOOKED_AT. Returns Reply as JSON.  See
-- router/scheduling/messages.py.
--
-- The first line has a Redis without memory refuse the whole call. Else it would refuse only those whose first command
-- takes memory, and be available and unavailable in turn.
--
-- Cost does not grow with the fleet: ROOM indexes the workers that have room (by place in the ring, or by load), LAPSE
-- those whose leases may pass next. Only a change of the fleet walks all workers, to make the plan anew.
local call, prefix, rules = cjson.decode(ARGV[1]), ARGV[2], cjson.decode(ARGV[3])
local process_ttl, claim_within = tonumber(ARGV[4]), tonumber(ARGV[5])
local passed_over, settle = tonumber(ARGV[6]), tonumber(ARGV[7])
local budget_window, broken_within, enough_evidence = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local rest_first, rest_max, silence = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local outage_share, deaths_looked_at = tonumber(ARGV[14]), tonumber(ARGV[15])
local PLAN, HEAD = KEYS[1], prefix .. ':plan:head' -- apart: what each call reads stays a small hash
local ROOM, LAPSE = prefix .. ':room', prefix .. ':lapse'
local QUEUE, WAITING, TICKET = prefix .. ':queue', prefix .. ':waiting', prefix .. ':ticket'
local EJECTED, RESTS, PROCESSES = prefix .. ':ejected', prefix .. ':rests', prefix .. ':processes'
local FINISHED, BUDGET, QUARANTINE = prefix .. ':finished', prefix .. ':budget', prefix .. ':quarantine'
local MAX_WEIGHT, MAX_COUNT = 100, 1e9 -- router/fleet/model.py's
local DEATHS = prefix .. ':deaths'
local TRIAL = -1 -- the cap of a worker that may get one job, fleet-wide, to show that it is well again
-- With `random`, the jobs of one call share a random number; this factor, a prime, sets their starts apart.
local SPREAD = 40507
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_by_load = rules.strategy == 'least_loaded'
local reply = {}
local ring_length = 0
-- A memory that begins empty does not know what runs: until then, workers with a cap get nothing, and every process has
-- time to hand in the leases that it holds.
local settles_at
local resting, away = 0, 0 -- how many workers rest, and how many of them because they cannot be reached

local function leases(url) return prefix .. ':leases:' .. url end
local function breaker(url) return prefix .. ':breaker:' .. url end
local function holder(number) return call.process .. ':' .. string.format('%.0f', number) end
local function forget(url) -- what was held against a worker
  redis.call('ZREM', EJECTED, url)
  redis.call('DEL', breaker(url))
end
local function tell(field, ...)
  local list = reply[field] or {}
  for _, value in ipairs({...}) do list[#list + 1] = value end
  reply[field] = list
end

-- Room ---------------------------------------------------------------------------------------------------------------
-- A member of ROOM is '<place> <cap> <weight> <url>'; its score is the place, or with least_loaded leases / weight.

local function planned(url)
  local entry = redis.call('HGET', PLAN, url)
  if entry then
    local cap, weight, places = string.match(entry, '^(%S+) (%S+) (%S+)$')
    return tonumber(cap), tonumber(weight), places
  end
end

local function set_room(url, cap, weight, places, is_open)
  for place in string.gmatch(places, '%d+') do
    local member = place .. ' ' .. cap .. ' ' .. weight .. ' ' .. url
    if not is_open then
      redis.call('ZREM', ROOM, member)
    elseif is_by_load then
      redis.call('ZADD', ROOM, redis.call('ZCARD', leases(url)) / weight, member)
    else
      redis.call('ZADD', ROOM, place, member)
    end
  end
end

-- RESTS: the workers that turn jobs away, by URL to a Rest of policy/rests.py, as read and written here.

local function rest_of(url)
  local text = resting > 0 and redis.call('HGET', RESTS, url)
  if not text then return end
  local limit, moment, asked, ms, is_away, its_silence = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    limit = tonumber(limit), moment = tonumber(moment), is_asked = asked == '1', ms = tonumber(ms),
    is_away = is_away == '1', silence = tonumber(its_silence),
  }
end

local function count_rests(more, more_away)
  resting, away = resting + more, away + more_away
  redis.call('HSET', HEAD, 'resting', resting, 'away', away)
end

local function drop_rest(url, its)
  redis.call('HDEL', RESTS, url)
  count_rests(-1, its.is_away and -1 or 0)
end

local function set_rest(url, its, before)
  local form = '%.0f %.0f %d %.0f %d %.0f'
  local asked, is_away = its.is_asked and 1 or 0, its.is_away and 1 or 0
  redis.call('HSET', RESTS, url, string.format(form, its.limit, its.moment, asked, its.ms, is_away, its.silence))
  redis.call('ZADD', LAPSE, 'LT', its.moment, url)
  count_rests(before and 0 or 1, is_away - (before and before.is_away and 1 or 0))
end

local look_at -- when the first of the workers whose rests this call was about may get a job
local function begin_rest(url, its, before)
  set_rest(url, its, before)
  look_at = math.min(look_at or its.moment, its.moment)
end

local function has_room(url, cap)
  if cap == TRIAL then return redis.call('HGET', breaker(url), 'trial') == 'open' end
  local its = rest_of(url)
  if its and redis.call('ZCARD', leases(url)) >= its.limit then return false end
  return cap == 0 or not settles_at and redis.call('ZCARD', leases(url)) < cap
end

-- Make ROOM right for a worker that may have room now, or none any more.
local function set_room_anew(url)
  local cap, weight, places = planned(url)
  if cap then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- The same, where only its number of leases has changed.
local function update_room(url)
  local cap, weight, places = planned(url)
  if cap and (cap ~= 0 or is_by_load or resting > 0) then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- Text of a hash that redis-cli may have written; `otherwise` where it is no whole number from 1 to `most`.
local function whole_number(text, most, otherwise)
  local number = text and #text <= 10 and string.match(text, '^%d+$') and tonumber(text)
  return number and number >= 1 and number <= most and number or otherwise
end

-- The plan -----------------------------------------------------------------------------------------------------------

local function candidates()
  local urls = redis.call('SMEMBERS', prefix .. ':workers')
  table.sort(urls)
  local is_draining, is_known = {}, {}
  -- Operators write it by hand: of another type (the answer is an error then) it drains nobody, and stops nobody.
  for _, url in ipairs(redis.pcall('SMEMBERS', prefix .. ':drain')) do is_draining[url] = true end
  local by_health = {healthy = {}, unknown = {}, unhealthy = {}}
  for _, url in ipairs(urls) do
    is_known[url] = true
    local held = redis.pcall('HMGET', prefix .. ':worker:' .. url, 'health', 'weight', 'max_concurrency')
    if held.err then held = {} end -- a key of another type: nothing is known of the worker
    local is_ejected = redis.call('ZSCORE', EJECTED, url)
    if is_ejected and held[1] == 'unhealthy' then forget(url) end -- the sidecar will let it back in
    local is_trial = is_ejected and redis.call('HGET', breaker(url), 'trial') == 'open'
    if not is_draining[url] and (not is_ejected or is_trial) then
      local group = by_health[held[1]] or by_health.unknown
      local cap = is_trial and TRIAL or whole_number(held[3], MAX_COUNT, 0)
      group[#group + 1] = {url = url, weight = whole_number(held[2], MAX_WEIGHT, 1), cap = cap, places = {}}
    end
  end
  for _, url in ipairs(redis.call('ZRANGE', EJECTED, 0, -1)) do
    if not is_known[url] then forget(url) end
  end
  for _, url in ipairs(redis.call('ZRANGE', FINISHED, 0, -1)) do
    if not is_known[url] then redis.call('ZREM', FINISHED, url) end
  end
  return #by_health.healthy > 0 and by_health.healthy or by_health.unknown
end

-- Smooth weighted round robin over classes of equal weight, as policy/selection.weighted_ring; returns its length.
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

-- Drop the rests of those who get no jobs anyway; count the others.
local function count_rests_anew(workers)
  local is_planned = {}
  for _, worker in ipairs(workers) do is_planned[worker.url] = true end
  local urls = redis.call('HKEYS', RESTS)
  resting, away = #urls, 0
  for _, url in ipairs(urls) do
    local its = rest_of(url)
    if its.is_away then away = away + 1 end
    if not is_planned[url] then drop_rest(url, its) end
  end
  if resting > 0 then count_rests(0, 0) end
end

local function make_plan(fleet_print)
  redis.call('DEL', PLAN, HEAD, ROOM)
  local workers = candidates()
  count_rests_anew(workers)
  ring_length = lay_ring(workers)
  for _, worker in ipairs(workers) do
    local places = is_by_load and '0' or table.concat(worker.places, ',')
    redis.call('HSET', PLAN, worker.url, worker.cap .. ' ' .. worker.weight .. ' ' .. places)
    set_room(worker.url, worker.cap, worker.weight, places, has_room(worker.url, worker.cap))
  end
  redis.call('HSET', HEAD, 'ring', ring_length, 'workers', #workers, 'strategy', rules.strategy, 'print', fleet_print)
  if settles_at then redis.call('HSET', HEAD, 'settles_at', string.format('%.0f', settles_at)) end
  reply.routable = #workers
end

-- Selection ----------------------------------------------------------------------------------------------------------

local function parsed(member)
  local cap, url = string.match(member, '^%S+ (%S+) %S+ (.*)$')
  return url, tonumber(cap)
end

-- The first of ROOM's members between two scores, from `offset` on, that is none of `tried`.
local function first_untried(low, high, offset, count, is_tried)
  while count > 0 do
    local members = redis.call('ZRANGEBYSCORE', ROOM, low, high, 'LIMIT', offset, math.min(count, 8))
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
  local lowest = redis.call('ZRANGE', ROOM, 0, 0, 'WITHSCORES')[2]
  while lowest do
    local ties = redis.call('ZCOUNT', ROOM, lowest, lowest)
    local offset = ticket % ties
    local url, cap = first_untried(lowest, lowest, offset, ties - offset, is_tried)
    if not url then url, cap = first_untried(lowest, lowest, 0, offset, is_tried) end
    if url then return url, cap end
    lowest = redis.call('ZRANGEBYSCORE', ROOM, '(' .. lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
end

local function pick(ticket, tried)
  if ring_length == 0 then return end
  local is_tried = {}
  for _, url in ipairs(tried) do is_tried[url] = true end
  if is_by_load then return pick_by_load(ticket, is_tried) end
  local start = rules.strategy == 'random' and call.seed + SPREAD * ticket or ticket
  return pick_from_ring(start % ring_length, is_tried)
end

-- Leases -------------------------------------------------------------------------------------------------------------

local function lease(url, cap, name, moment)
  redis.call('ZADD', leases(url), moment, name)
  redis.call('ZADD', LAPSE, 'LT', moment, url)
  if cap == TRIAL then
    redis.call('HSET', breaker(url), 'trial', name)
    -- Should nobody ever say how it went, the next trial opens when this lease has passed.
    redis.call('ZADD', EJECTED, moment, url)
    update_room(url)
  elseif is_by_load or resting > 0 or (cap > 0 and redis.call('ZCARD', leases(url)) >= cap) then
    update_room(url)
  end
end

-- Let a worker whose rest is over get one more job.
local function pass_rest(url, its)
  local running = redis.call('ZCARD', leases(url))
  local is_wanted = redis.call('ZCARD', QUEUE) > 0
  if its.is_asked and (its.is_away or not is_wanted and running < its.limit) then
    drop_rest(url, its)
    return
  end
  its.limit = its.is_away and running + 1 or its.limit + 1
  its.is_asked, its.moment = true, now + its.silence
  begin_rest(url, its, its)
end

local function drop_lapsed()
  for _, url in ipairs(redis.call('ZRANGEBYSCORE', LAPSE, '-inf', now)) do
    redis.call('ZREMRANGEBYSCORE', leases(url), '-inf', now)
    redis.call('ZREM', LAPSE, url)
    local next_one = redis.call('ZRANGE', leases(url), 0, 0, 'WITHSCORES')[2]
    if next_one then redis.call('ZADD', LAPSE, next_one, url) end
    local its = rest_of(url)
    if its and its.moment <= now then
      pass_rest(url, its)
    elseif its then
      redis.call('ZADD', LAPSE, 'LT', its.moment, url)
    end
    set_room_anew(url)
  end
end

-- The breaker --------------------------------------------------------------------------------------------------------

local is_stale = false

local function eject(url, times, cause)
  local moment = now + math.min(rules.base_ms * 2 ^ (times - 1), rules.max_ms)
  redis.call('HSET', breaker(url), 'times', times, 'ejected_until', string.format('%.3f', moment / 1000), 'trial', '',
    'cause', cause)
  redis.call('PERSIST', breaker(url))
  redis.call('ZADD', EJECTED, moment, url)
  is_stale = true
end

local function postpone_trial(url, moment)
  redis.call('HSET', breaker(url), 'trial', '', 'ejected_until', string.format('%.3f', moment / 1000))
  redis.call('ZADD', EJECTED, moment, url)
end

local function open_trial(url)
  local cap = whole_number(redis.call('HGET', prefix .. ':worker:' .. url, 'max_concurrency'), MAX_COUNT, 0)
  if cap > 0 and redis.call('ZCARD', leases(url)) >= cap then -- with what timed out there and still runs
    postpone_trial(url, redis.call('ZRANGE', leases(url), 0, 0, 'WITHSCORES')[2])
    return
  end
  redis.call('HSET', breaker(url), 'trial', 'open')
  redis.call('ZADD', EJECTED, '+inf', url)
  is_stale = true
end

local function may_eject_another()
  local fleet = redis.call('SCARD', prefix .. ':workers')
  return (redis.call('ZCARD', EJECTED) + 1) * 100 <= rules.max_ejected_percent * fleet
end

local function judge(url, name, blame, job, cause, ms)
  local held = redis.call('HMGET', breaker(url), 'times', 'trial', 'failures', 'last_error_of')
  local times, trial, failures = held[1], held[2], held[3]
  if trial == name then
    if blame == 'ok' then
      forget(url)
      is_stale = true
    elseif blame == 'none' then
      open_trial(url)
    elseif blame == 'busy' then
      postpone_trial(url, now + math.max(ms, rest_max))
    elseif blame ~= 'doubt' then -- then the word about this trial is still to come
      eject(url, times + 1, cause)
    end
  elseif times then
    return -- ejected: what ran there before says nothing new
  elseif blame == 'ok' and failures then
    redis.call('DEL', breaker(url))
  elseif blame == 'away' and away >= reply.routable then
    return -- nobody can be reached: that is no worker's fault
  elseif blame ~= 'ok' and blame ~= 'none' and blame ~= 'busy' and blame ~= 'doubt' then
    if blame == 'error' then
      if held[4] == job then return end -- one bad job, sent again and again, is no bad worker
      redis.call('HSET', breaker(url), 'last_error_of', job)
    end
    local in_a_row = redis.call('HINCRBY', breaker(url), 'failures', 1)
    redis.call('PEXPIRE', breaker(url), 2 * rules.max_ms) -- what was so long ago is no row
    if in_a_row >= rules.failures and may_eject_another() then eject(url, 1, cause) end
  end
end

-- A worker has turned a job away: as Rests.turn_away.
local function turn_away(url, is_away, ms)
  if redis.call('HEXISTS', PLAN, url) == 0 or redis.call('ZSCORE', EJECTED, url) then return end
  local before = rest_of(url)
  local its = {is_asked = false, is_away = is_away, silence = is_away and silence + 2 * ms or silence}
  if before and not before.is_asked and before.is_away == is_away then
    its.ms, its.moment = before.ms, before.moment -- sent before it had turned the first one away
  else
    its.ms = before and math.max(rest_first, math.min(2 * before.ms, rest_max)) or rest_first
    its.moment = now + its.ms
  end
  its.limit = is_away and 0 or redis.call('ZCARD', leases(url))
  if not is_away then its.moment = math.max(its.moment, now + ms) end
  begin_rest(url, its, before)
  set_room_anew(url)
end

local function hear_of_answer(url)
  local its = rest_of(url)
  if not its or not its.is_asked then return end
  if its.is_away then
    drop_rest(url, its)
  else
    its.limit, its.ms = its.limit + 1, 0
    set_rest(url, its, its)
  end
  set_room_anew(url)
end

-- Retries ------------------------------------------------------------------------------------------------------------
-- BUDGET: what is saved up, until when that is counted, and the ticket then.  QUARANTINE: jobs by until when.

local function written(number) return string.format('%.3f', number) end

-- Fill the bucket by the tickets and the time since; take one retry out where `is_retry`, and return whether it had one.
local function fill_budget(is_retry)
  local held = redis.call('HMGET', BUDGET, 'saved', 'tickets', 'filled_at')
  local tickets, saved = tonumber(redis.call('GET', TICKET) or 0), rules.budget_per_second
  if held[1] then
    local elapsed = now - held[3]
    local earned = math.max(0, tickets - held[2]) * rules.budget_percent / 100
    saved = held[1] * math.max(0, 1 - elapsed / budget_window) + earned + elapsed * rules.budget_per_second / 1000
    saved = tonumber(written(saved))
  end
  local has_one = saved >= 1
  if is_retry and has_one then saved = saved - 1 end
  redis.call('HSET', BUDGET, 'saved', written(saved), 'tickets', tickets, 'filled_at', now)
  return has_one
end

-- Whether another worker has just died under another job; then let go of those just convicted.
local function hear_of_outage(job, url)
  redis.call('ZREMRANGEBYSCORE', DEATHS, '-inf', now - broken_within)
  redis.call('ZADD', DEATHS, now, job .. ' ' .. url)
  redis.call('PEXPIRE', DEATHS, broken_within)
  for _, death in ipairs(redis.call('ZREVRANGE', DEATHS, 0, deaths_looked_at - 1)) do
    local its, at = string.match(death, '^(%S*) (.*)$')
    if its ~= job and at ~= url then
      local lately = now - broken_within + rules.quarantine_ms
      for _, convicted in ipairs(redis.call('ZRANGEBYSCORE', QUARANTINE, '(' .. lately, '+inf')) do
        if convicted ~= job then redis.call('ZREM', QUARANTINE, convicted) end
      end
      return true
    end
  end
  return false
end

-- A connection died: evidence of 1 against the jobs that the worker ran, shared among them. As Quarantine.
local function hear_of_death(job, url, name, ran)
  if redis.call('SISMEMBER', prefix .. ':workers', url) == 0 or redis.call('SISMEMBER', prefix .. ':drain', url) == 1 then
    return -- it was to end anyway
  end
  local broken, suspect = prefix .. ':broken:' .. url, prefix .. ':suspect:' .. job
  redis.call('ZREMRANGEBYSCORE', broken, '-inf', now - broken_within)
  redis.call('ZADD', broken, now, name)
  redis.call('PEXPIRE', broken, broken_within)
  local is_outage = hear_of_outage(job, url)
  local shared = redis.call('ZCARD', leases(url)) + redis.call('ZCARD', broken)
  local share = tonumber(written((is_outage and outage_share or 1) / shared))
  local evidence, held = 0, redis.call('HGETALL', suspect)
  for index = 1, #held, 2 do
    local its, at = string.match(held[index + 1], '^(%S+) ?(%S*)$')
    local has_outlived = (tonumber(at) or 0) > now - ran -- 0: written by an older version
    if held[index] == url or has_outlived then -- one cause, and one piece of evidence
      share = math.max(share, tonumber(its))
      redis.call('HDEL', suspect, held[index])
    else
      evidence = evidence + its
    end
  end
  evidence = evidence + share
  redis.call('HSET', suspect, url, written(share) .. ' ' .. string.format('%.0f', now))
  redis.call('PEXPIRE', suspect, rules.quarantine_ms)
  if evidence < enough_evidence then
    redis.call('ZREM', QUARANTINE, job)
  elseif redis.call('ZADD', QUARANTINE, now + rules.quarantine_ms, job) == 1 then
    redis.call('PUBLISH', prefix .. ':changes', 'quarantine') -- before its client sends it again
  end
end

-- It has been done well: what died under it before died of something else.
local function exonerate(job)
  redis.call('DEL', prefix .. ':suspect:' .. job)
  redis.call('ZREM', QUARANTINE, job)
end

local function may_retry(number, job)
  if tonumber(redis.call('ZSCORE', QUARANTINE, job) or 0) > now then
    tell('quarantined', number)
  elseif not fill_budget(true) then
    tell('unfunded', number)
  else
    return true
  end
end

-- The queue ----------------------------------------------------------------------------------------------------------
-- QUEUE: '<process>:<number>' by ticket.  WAITING: the same to '<bound> <deadline> <tried …>'.

local function leave(name)
  redis.call('ZREM', QUEUE, name)
  redis.call('HDEL', WAITING, name)
end

local alive = {[call.process] = true}
local function is_alive(process)
  if alive[process] == nil then
    local beat = redis.call('ZSCORE', PROCESSES, process)
    alive[process] = beat and now - beat < process_ttl or false
  end
  return alive[process]
end

local function grant(name, ticket, url, cap, bound)
  local process, number = string.match(name, '^(.*):(%d+)$')
  if process == call.process then
    lease(url, cap, name, now + bound)
    tell('granted', {tonumber(number), url, ticket})
  else
    lease(url, cap, name, now + claim_within)
    local list = prefix .. ':grants:' .. process
    redis.call('RPUSH', list, cjson.encode({tonumber(number), url, ticket}))
    redis.call('PEXPIRE', list, process_ttl + claim_within)
  end
end

local function serve_queue()
  local passed = 0
  while passed < passed_over and redis.call('EXISTS', ROOM) == 1 do
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
        passed = passed + 1 -- all that have room are among those it has tried
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

local function arrive(arrivals)
  local fresh, newest = 0, 0
  for _, arrival in ipairs(arrivals) do
    if arrival[4] == 0 then fresh = fresh + 1 else newest = math.max(newest, arrival[4]) end
  end
  local last = fresh > 0 and redis.call('INCRBY', TICKET, fresh) or nil
  if newest > 0 then -- after a loss of Redis' memory the counter goes on above the tickets in hand
    local counter = last or tonumber(redis.call('GET', TICKET) or 0)
    if newest > counter then
      last = newest + fresh
      redis.call('SET', TICKET, string.format('%.0f', last))
    end
  end
  local ticket = fresh > 0 and last - fresh or 0
  local waiting = redis.call('ZCARD', QUEUE)
  for _, arrival in ipairs(arrivals) do
    local name, bound = holder(arrival[1]), arrival[2]
    local its, retry_of = arrival[4], arrival[6]
    if its == 0 then ticket = ticket + 1; its = ticket end
    local may_go = retry_of == '' or may_retry(arrival[1], retry_of)
    local url, cap
    if may_go and waiting == 0 then url, cap = pick(its, arrival[5]) end
    if not may_go then
      -- It has been told.
    elseif url then
      grant(name, its, url, cap, bound)
    elseif ring_length > 0 and is_exhausted(arrival[5]) then
      tell('exhausted', arrival[1])
    elseif waiting >= rules.max_waiting then
      tell('refused', arrival[1])
    else
      redis.call('ZADD', QUEUE, its, name)
      local deadline = string.format('%.0f', now + arrival[3])
      redis.call('HSET', WAITING, name, bound .. ' ' .. deadline .. ' ' .. table.concat(arrival[5], ' '))
      tell('queued', arrival[1], its)
      waiting = waiting + 1
    end
  end
end

-- Give a health check a lease on just its worker, routable or not; none where that is full, and none where the breaker
-- keeps it out, for then its trial is the check.
local function check(number, url, bound)
  local cap = whole_number(redis.call('HGET', prefix .. ':worker:' .. url, 'max_concurrency'), MAX_COUNT, 0)
  if has_room(url, cap) and not redis.call('ZSCORE', EJECTED, url) then
    lease(url, cap, holder(number), now + bound)
    tell('granted', {number, url, 0})
  else
    tell('refused', number)
  end
end

-- One process' call --------------------------------------------------------------------------------------------------

-- Drop the leases of this process that it does not hold. Walks all leases; done after an outage only.
local function drop_unheld(held)
  local is_held = {}
  for _, item in ipairs(held) do is_held[item[1] .. ' ' .. holder(item[2])] = true end
  for _, url in ipairs(redis.call('SMEMBERS', prefix .. ':workers')) do
    local dropped = 0
    for _, name in ipairs(redis.call('ZRANGE', leases(url), 0, -1)) do
      if string.match(name, '^(.*):%d+$') == call.process and not is_held[url .. ' ' .. name] then
        dropped = dropped + redis.call('ZREM', leases(url), name)
      end
    end
    if dropped > 0 then update_room(url) end
  end
end

local function hear_beat(running, waiting, oldest, held, is_return)
  fill_budget(false)
  redis.call('ZREMRANGEBYSCORE', QUARANTINE, '-inf', now)
  redis.call('ZADD', PROCESSES, now, call.process)
  redis.call('ZREMRANGEBYSCORE', PROCESSES, '-inf', now - process_ttl)
  reply.processes = redis.call('ZCARD', PROCESSES)
  local key = prefix .. ':process:' .. call.process
  redis.call('HSET', key, 'heartbeat', time[1], 'leases', running, 'waiting', waiting)
  redis.call('PEXPIRE', key, process_ttl)
  if is_return then drop_unheld(held) end
  for _, item in ipairs(held) do
    if redis.call('ZADD', leases(item[1]), 'NX', now + item[3], holder(item[2])) == 1 then
      redis.call('ZADD', LAPSE, 'LT', now + item[3], item[1])
      update_room(item[1])
    end
  end
  for _, number in ipairs(oldest) do
    if redis.call('HEXISTS', WAITING, holder(number)) == 0 then tell('missing', number) end
  end
end

if redis.call('HEXISTS', prefix .. ':fleet', 'written_at') == 0 then return '{"has_fleet":false}' end
call.seed = call.seed or 0

local head = redis.call('HMGET', HEAD, 'ring', 'workers', 'strategy', 'print', 'stale', 'settles_at', 'resting', 'away')
local fleet_print = head[4] or ''
ring_length, reply.routable = tonumber(head[1]) or 0, tonumber(head[2]) or 0
if head[7] and redis.call('EXISTS', RESTS) == 1 then resting, away = tonumber(head[7]), tonumber(head[8]) end
if call.fleet_print and call.fleet_print ~= fleet_print then fleet_print, is_stale = call.fleet_print, true end
if not head[1] or head[5] or head[3] ~= rules.strategy then is_stale = true end
settles_at = head[1] and tonumber(head[6]) or not head[1] and now + settle or nil
if settles_at and settles_at <= now then settles_at, is_stale = nil, true end
if is_stale then make_plan(fleet_print); is_stale = false end

local has_finished = {}
for _, ended in ipairs(call.ended or {}) do
  local url, name = ended[1], holder(ended[2])
  if ended[4] and redis.call('ZREM', leases(url), name) == 1 then update_room(url) end
  local blame, ms = ended[3], ended[7] or 0
  if blame == 'busy' or blame == 'away' then turn_away(url, blame == 'away', ms) end
  if resting > 0 and (blame == 'ok' or blame == 'error' or blame == 'doubt') then hear_of_answer(url) end
  judge(url, name, blame, ended[5], ended[6], ms)
  if blame == 'died' then hear_of_death(ended[5], url, name, ms) end
  if ended[3] == 'ok' and ended[5] ~= '' then exonerate(ended[5]) end
  if ended[3] == 'ok' then has_finished[url] = true end
end
for url in pairs(has_finished) do redis.call('ZADD', FINISHED, now, url) end -- for the sidecar: busy is not dead
for _, claim in ipairs(call.claims or {}) do
  local url, name = claim[1], holder(claim[2])
  if redis.call('ZSCORE', leases(url), name) then
    redis.call('ZADD', leases(url), now + claim[3], name)
    redis.call('ZADD', LAPSE, 'LT', now + claim[3], url)
    if redis.call('HGET', breaker(url), 'trial') == name then redis.call('ZADD', EJECTED, now + claim[3], url) end
    leave(name)
    tell('claimed', claim[2])
  else
    tell('lost', claim[2])
  end
end
drop_lapsed()
for _, url in ipairs(redis.call('ZRANGEBYSCORE', EJECTED, '-inf', now)) do open_trial(url) end
if is_stale then make_plan(fleet_print) end
if call.beat then hear_beat(unpack(call.beat)) end
for _, number in ipairs(call.left or {}) do leave(holder(number)) end
serve_queue()
if call.arrived then
  arrive(call.arrived)
  serve_queue()
end
for _, wanted in ipairs(call.checks or {}) do check(unpack(wanted)) end
reply.waiting, reply.settles, reply.away = redis.call('ZCARD', QUEUE), settles_at ~= nil, away
if look_at then reply.look_in_ms = look_at - now end
return cjson.encode(reply)
