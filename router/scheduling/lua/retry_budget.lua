-- How much the whole fleet may retry: a bucket that jobs and seconds fill, and from which each retry takes one.
--
-- Twin     router/scheduling/local/retry_budget.py, RetryBudget
-- Reads    TICKET
-- Writes   BUDGET: what is saved, and the tickets and the moment up to which it is filled
-- @lazy Seldom
-- @include context

-- Fill the bucket by the tickets and the time since. With `is_retry` take one retry out; return whether there was one.
function Seldom.fill_budget(is_retry)
  local held = redis.call('HMGET', BUDGET, 'saved', 'tickets', 'filled_at')
  local tickets, saved = tonumber(redis.call('GET', TICKET) or 0), rules.budget_per_second
  if held[1] then
    local elapsed = now - held[3]
    local earned = math.max(0, tickets - held[2]) * rules.budget_percent / 100
    saved = held[1] * math.max(0, 1 - elapsed / BUDGET_WINDOW_MS) + earned + elapsed * rules.budget_per_second / 1000
    saved = tonumber(written(saved))
  end
  local has_one = saved >= 1
  if is_retry and has_one then saved = saved - 1 end
  redis.call('HSET', BUDGET, 'saved', written(saved), 'tickets', tickets, 'filled_at', now)
  return has_one
end
