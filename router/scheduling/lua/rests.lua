-- Which workers rest: those that turn jobs away because they have no room, and those that cannot be reached.
--
-- Twin     router/scheduling/local/rests.py, Rests
-- Reads    PLAN, EJECTED, POOLS, PLACES
-- Writes   RESTS (a Rest by URL, as text), PLAN_HEAD (resting, away)
-- @lazy Seldom
-- @include context
-- @include pools

function Seldom.rest_of(url)
  local text = redis.call('HGET', RESTS, url)
  if not text then return end
  local limit, moment, asked, ms, is_away, silence = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    limit = tonumber(limit), moment = tonumber(moment), is_asked = asked == '1', ms = tonumber(ms),
    is_away = is_away == '1', silence = tonumber(silence),
  }
end

function Seldom.count_rests(more, more_away)
  resting, away = resting + more, away + more_away
  redis.call('HSET', PLAN_HEAD, 'resting', resting, 'away', away)
end

function Seldom.drop_rest(url, rest)
  redis.call('HDEL', RESTS, url)
  Seldom.count_rests(-1, rest.is_away and -1 or 0)
end

function Seldom.set_rest(url, rest, before)
  local form = '%.0f %.0f %d %.0f %d %.0f'
  local asked, is_away = rest.is_asked and 1 or 0, rest.is_away and 1 or 0
  redis.call('HSET', RESTS, url, string.format(form, rest.limit, rest.moment, asked, rest.ms, is_away, rest.silence))
  lapse_at(url, rest.moment)
  Seldom.count_rests(before and 0 or 1, is_away - (before and before.is_away and 1 or 0))
end

function Seldom.begin_rest(url, rest, before)
  Seldom.set_rest(url, rest, before)
  look_at = math.min(look_at or rest.moment, rest.moment)
end

-- Take in that the worker has turned a job away; `ms` as in Ended. Return whether it rests now.
function Seldom.turn_away(url, is_away, ms)
  if redis.call('HEXISTS', PLAN, url) == 0 or redis.call('ZSCORE', EJECTED, url) then return false end
  local before = Seldom.rest_of(url)
  local rest = {is_asked = false, is_away = is_away, silence = is_away and SILENCE_MS + 2 * ms or SILENCE_MS}
  if before and not before.is_asked and before.is_away == is_away then
    rest.ms, rest.moment = before.ms, before.moment -- this job was sent before the worker had turned the first one away
  else
    rest.ms = before and math.max(REST_FIRST_MS, math.min(2 * before.ms, REST_MAX_MS)) or REST_FIRST_MS
    rest.moment = now + rest.ms
  end
  rest.limit = is_away and 0 or leases_on(url)
  if not is_away then rest.moment = math.max(rest.moment, now + ms) end
  Seldom.begin_rest(url, rest, before)
  return true
end

-- Take in that the worker has answered a job. Return whether that changes its rest.
function Seldom.hear_of_answer(url)
  local rest = Seldom.rest_of(url)
  if not rest or not rest.is_asked then return false end
  if rest.is_away then
    Seldom.drop_rest(url, rest)
  else
    rest.limit, rest.ms = rest.limit + 1, 0
    Seldom.set_rest(url, rest, rest)
  end
  return true
end

-- Let the worker, whose rest is over, get one more job.
function Seldom.pass_rest(url, rest)
  local count = leases_on(url)
  if rest.is_asked and (rest.is_away or waiting == 0 and count < rest.limit) then
    Seldom.drop_rest(url, rest)
    return
  end
  rest.limit = rest.is_away and count + 1 or rest.limit + 1
  rest.is_asked, rest.moment = true, now + rest.silence
  Seldom.begin_rest(url, rest, rest)
end

-- Name the pools whose workers all rest because they cannot be reached; not those of all workers.
function Seldom.tell_of_unreached()
  local away_in, unreached = {}, {}
  for _, url in ipairs(redis.call('HKEYS', RESTS)) do
    if Seldom.rest_of(url).is_away then
      for room in string.gmatch(redis.call('HGET', PLACES, url) or '', '(%d+):') do
        away_in[tonumber(room)] = (away_in[tonumber(room)] or 0) + 1
      end
    end
  end
  local pools = redis.call('HGETALL', POOLS)
  for index = 1, #pools, 2 do
    local its = Shared.read_pool(pools[index + 1])
    if away_in[its.room] == its.workers then unreached[#unreached + 1] = pools[index] end
  end
  table.sort(unreached)
  if #unreached > 0 then reply.unreached = unreached end
end

-- After a new plan: drop the rests of workers that get no jobs anyway, and count the others.
function Seldom.count_rests_anew(workers)
  local is_planned = {}
  for _, worker in ipairs(workers) do is_planned[worker.url] = true end
  local urls = redis.call('HKEYS', RESTS)
  resting, away = #urls, 0
  for _, url in ipairs(urls) do
    local rest = Seldom.rest_of(url)
    if rest.is_away then away = away + 1 end
    if not is_planned[url] then Seldom.drop_rest(url, rest) end
  end
  if resting > 0 then Seldom.count_rests(0, 0) end
end
