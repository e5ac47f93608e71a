-- Which workers have just come back, and how many of their slots they have: they get them over `slow_start_ms`.
--
-- A field of STARTS is 'out' for a worker that had jobs and is now unhealthy or ejected; for one that has come back it
-- is '<since> <limit> <moment>': when it came back, how many jobs it may run, and when it may run more.
--
-- Twin     router/scheduling/local/slow_start.py, SlowStarts
-- Writes   STARTS, PLAN_HEAD (starting, how many workers have come back)
-- @lazy Seldom
-- @include context
-- @include leases
-- @include room

function Seldom.start_of(url)
  local text = redis.call('HGET', STARTS, url)
  local since, limit, moment = string.match(text or '', '^(%d+) (%d+) (%d+)$')
  return since and {since = tonumber(since), limit = tonumber(limit), moment = tonumber(moment)}
end

-- Set how many jobs the worker may run that came back at `since`. Return whether it has not yet all its slots.
function Seldom.set_start(url, cap, since)
  local elapsed, all = now - since, rules.slow_start_ms
  local limit = math.max(1, math.ceil(cap * elapsed / all))
  if cap <= 1 or elapsed >= all or limit >= cap then
    redis.call('HDEL', STARTS, url)
    return false
  end
  local moment = math.max(since + math.floor(limit * all / cap) + 1, now + START_STEP_MS)
  redis.call('HSET', STARTS, url, string.format('%.0f %.0f %.0f', since, limit, moment))
  lapse_at(url, moment)
  return true
end

-- Have a process call when the first of the workers that have come back may run more jobs.
function Seldom.look_at_starts()
  for _, text in ipairs(redis.call('HVALS', STARTS)) do
    local moment = tonumber(string.match(text, ' (%d+)$') or nil)
    if moment then look_at = math.min(look_at or moment, moment) end
  end
end

-- Go on with the start of a worker that LAPSE has named. Return whether the worker may run more jobs now.
function Seldom.go_on(url, start)
  if start.moment > now then
    lapse_at(url, start.moment)
    return false
  end
  if not Seldom.set_start(url, planned(url) and planned(url).cap or 0, start.since) then
    starting = starting - 1
    redis.call('HSET', PLAN_HEAD, 'starting', starting)
  end
  return true
end

-- After a new plan: note which workers are out, and begin with those that have come back. `was_well` has the workers
-- that could get jobs by the last plan because they were healthy; `is_out` is by URL, without drained workers.
function Seldom.begin_starts(workers, is_out, was_well)
  starting = 0
  local held, texts = redis.call('HGETALL', STARTS), {}
  for index = 1, #held, 2 do
    if rules.slow_start_ms > 0 and is_out[held[index]] ~= nil then
      texts[held[index]] = held[index + 1]
    else
      redis.call('HDEL', STARTS, held[index])
    end
  end
  if rules.slow_start_ms == 0 then return end
  for _, url in ipairs(was_well) do
    if is_out[url] then texts[url] = 'out' end
  end
  for _, worker in ipairs(workers) do
    local text = texts[worker.url]
    if text and not is_out[worker.url] then
      local since = tonumber(string.match(text, '^(%d+) ') or nil) or now
      if Seldom.set_start(worker.url, worker.cap, since) then starting = starting + 1 end
      texts[worker.url] = nil
    end
  end
  for url in pairs(texts) do redis.call('HSET', STARTS, url, 'out') end
  redis.call('HSET', PLAN_HEAD, 'starting', starting)
  if starting > 0 then Seldom.look_at_starts() end
end
