-- How much the whole fleet may run beyond its jobs: retries, and second runs beside the first. Each has a bucket that
-- jobs and seconds fill, and from which each run takes one.
--
-- Twin     router/scheduling/local/budget.py, Budget
-- Reads    TICKET
-- Writes   BUDGET, HEDGES: what is saved, and the tickets and the moment up to which it is filled
-- @lazy Seldom
-- @include context

-- Fill the bucket by the tickets and the time since. With `takes` take one run out; return whether there was one. What
-- is saved runs off over `window` ms.
function Seldom.fill(key, percent, per_second, window, takes)
  local held = redis.call('HMGET', key, 'saved', 'tickets', 'filled_at')
  local tickets, saved = tonumber(redis.call('GET', TICKET) or 0), per_second
  if held[1] then
    local elapsed = now - held[3]
    local earned = math.max(0, tickets - held[2]) * percent / 100
    saved = held[1] * math.max(0, 1 - elapsed / window) + earned + elapsed * per_second / 1000
    saved = tonumber(written(saved))
  end
  local has_one = saved >= 1
  if takes and has_one then saved = saved - 1 end
  redis.call('HSET', key, 'saved', written(saved), 'tickets', tickets, 'filled_at', now)
  return has_one
end

function Seldom.fill_budget(is_retry)
  return Seldom.fill(BUDGET, rules.budget_percent, rules.budget_per_second, BUDGET_WINDOW_MS, is_retry)
end

function Seldom.fill_hedges(is_hedge)
  return Seldom.fill(HEDGES, rules.hedge_percent, 0, HEDGE_WINDOW_MS, is_hedge)
end
