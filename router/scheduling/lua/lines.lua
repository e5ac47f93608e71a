-- Lines: the pending jobs of one tenant in one pool, '<tenant>/<pool>'. QUEUE is the line of the tenant `default` in
-- the pool of all workers; as long as it waits alone, nothing of turns.lua is needed.
--
-- Reads    QUEUE, QUEUE_OF
-- @include context

local function is_plain(tenant, pool) return tenant == DEFAULT and pool == '' end

local function queue_of(tenant, pool)
  return is_plain(tenant, pool) and QUEUE or QUEUE_OF .. pool .. '/' .. tenant
end

-- Whether as many jobs of the tenant run as may.
local function is_at_most(tenant) return has_rules and Shared.runs_most(tenant) end

-- Whether a line of pending jobs takes part in the turns.
local function may_go(tenant, pool)
  return not is_at_most(tenant) and not (has_memory and Shared.has_reserved(tenant .. '/' .. pool))
end
