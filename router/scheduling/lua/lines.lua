-- Lines: the pending jobs of one tenant in one pool, '<tenant>/<pool>'. QUEUE is the line of the tenant `default` in
-- the pool of all workers. As long as one line waits alone, nothing of turns.lua is needed.
--
-- Reads    QUEUE, QUEUE_OF, LINES, WAITING
-- @include context

local function is_plain(tenant, pool) return tenant == DEFAULT and pool == '' end

local function queue_of(tenant, pool)
  return is_plain(tenant, pool) and QUEUE or QUEUE_OF .. pool .. '/' .. tenant
end

-- Count the pending jobs, and their lines.
local function count_lines()
  waiting = redis.call('HLEN', WAITING)
  if waiting == 0 then return end
  local plain = redis.call('ZCARD', QUEUE)
  others = math.max(0, waiting - plain)
  lines = (plain > 0 and 1 or 0) + (others > 0 and redis.call('ZCARD', LINES) or 0)
end

-- The tenant and the pool of the only line that waits.
local sole
local function sole_line()
  if others == 0 then return DEFAULT, '' end
  if not sole then sole = redis.call('ZRANGE', LINES, 0, 0)[1] end
  return string.match(sole, '^([^/]*)/(.*)$')
end

-- Return the name and the ticket of the job of a line whose turn is next after `offset` others, and the ticket by which
-- the line has its turn if `offset` is 0.
local function job_at(tenant, pool, offset)
  if has_order and Ordered.goes_by_size(tenant) then return Ordered.job_at(tenant, pool, offset) end
  local head = redis.call('ZRANGE', queue_of(tenant, pool), offset, offset, 'WITHSCORES')
  local ticket = tonumber(head[2])
  return head[1], ticket, ticket
end

-- Whether as many jobs of the tenant run as may.
local function is_at_most(tenant) return has_rules and Shared.runs_most(tenant) end

-- Whether a line of pending jobs takes part in the turns.
local function may_go(tenant, pool)
  return not is_at_most(tenant) and not (has_memory and Shared.has_reserved(tenant .. '/' .. pool))
end
