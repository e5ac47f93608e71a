-- The plan: which workers may get jobs, with which cap, weight and places in the ring.
--
-- It is kept between calls, and made anew when the fleet or an ejection has changed. Only this reads all workers.
--
-- Twin     router/scheduling/plan.py, Plan
-- Reads    WORKERS, WORKER_OF, DRAIN, BREAKER_OF, TENANTS, LINES
-- Writes   PLAN, PLAN_HEAD (apart from PLAN, for each call reads it), ROOM, ROOM_OF, POOLS, PLACES, ROUNDS,
--          EJECTED, FINISHED, RESTS
-- @include context
-- @include breaker
-- @include pools
-- @include rests
-- @include ring
-- @include room
-- @include turns

-- Load the head of the plan, and find out whether the plan is stale.
local function load_plan()
  local head = redis.call('HMGET', PLAN_HEAD, 'ring', 'workers', 'strategy', 'print', 'stale', 'settles_at', 'resting',
    'away', 'rules', 'top_priority', 'schema',
    'rooms')
  fleet_print = head[4] or ''
  ring_length, reply.routable = tonumber(head[1]) or 0, tonumber(head[2]) or 0
  if head[7] and redis.call('EXISTS', RESTS) == 1 then resting, away = tonumber(head[7]), tonumber(head[8]) end
  if call.fleet_print and call.fleet_print ~= fleet_print then fleet_print, is_plan_stale = call.fleet_print, true end
  rooms = tonumber(head[12]) or head[1] and 0 or MAX_POOLS
  has_rules, top_priority = head[9] == '1', tonumber(head[10])
  if not head[1] or head[5] or head[3] ~= rules.strategy or tonumber(head[11]) ~= SCHEMA_VERSION then is_plan_stale = true end
  settles_at = head[1] and tonumber(head[6]) or not head[1] and now + SETTLE_MS or nil
  if settles_at and settles_at <= now then settles_at, is_plan_stale = nil, true end
end

-- The workers that may get jobs: the healthy ones; if there are none, those that have not been checked.
local function candidates()
  local urls = redis.call('SMEMBERS', WORKERS)
  table.sort(urls)
  local is_draining, is_known = {}, {}
  -- Operators write DRAIN by hand. If it is of another type, the answer is an error, and no worker is drained.
  for _, url in ipairs(redis.pcall('SMEMBERS', DRAIN)) do is_draining[url] = true end
  local by_health = {healthy = {}, unknown = {}, unhealthy = {}}
  for _, url in ipairs(urls) do
    is_known[url] = true
    local held = redis.pcall('HMGET', WORKER_OF .. url, 'health', 'weight', 'max_concurrency')
    if held.err then held = {} end -- a key of another type: nothing is known of the worker
    local is_ejected = redis.call('ZSCORE', EJECTED, url)
    if is_ejected and held[1] == 'unhealthy' then forget(url) end -- the sidecar will let it back in
    local is_trial = is_ejected and redis.call('HGET', BREAKER_OF .. url, 'trial') == 'open'
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

-- Find the workers of the pools for which jobs are pending.
local function open_pools_in_use(workers)
  if others > 0 then
    for _, line in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do
      local pool = string.match(line, '/(.*)$')
      if not pool_named(pool) then open_pool(pool, workers) end
    end
  end
  local is_print = {}
  for _, pool in pairs(known_pools) do if pool then is_print[pool.print] = true end end
  for _, print in ipairs(redis.call('HKEYS', ROUNDS)) do
    if not is_print[print] then redis.call('HDEL', ROUNDS, print) end
  end
end

local function make_plan_if_stale()
  if not is_plan_stale then return end
  is_plan_stale = false
  redis.call('DEL', PLAN, PLAN_HEAD, ROOM, POOLS, PLACES)
  drop_turns(rooms)
  for room = 1, rooms do redis.call('DEL', ROOM_OF .. room) end
  rooms, known_pools = 0, {}
  has_rules = redis.call('EXISTS', TENANTS) == 1
  top_priority = has_rules and highest_priority() or nil
  local workers = candidates()
  count_rests_anew(workers)
  ring_length = lay_ring(workers)
  for _, worker in ipairs(workers) do
    local places = is_by_load and '0' or table.concat(worker.places, ',')
    redis.call('HSET', PLAN, worker.url, worker.cap .. ' ' .. worker.weight .. ' ' .. places)
    set_room(worker.url, worker.cap, worker.weight, places, has_room(worker.url, worker.cap))
  end
  redis.call('HSET', PLAN_HEAD, 'ring', ring_length, 'workers', #workers, 'strategy', rules.strategy,
    'print', fleet_print, 'rules', has_rules and 1 or 0, 'schema', SCHEMA_VERSION)
  if top_priority then redis.call('HSET', PLAN_HEAD, 'top_priority', top_priority) end
  if settles_at then redis.call('HSET', PLAN_HEAD, 'settles_at', string.format('%.0f', settles_at)) end
  reply.routable = #workers
  open_pools_in_use(workers)
  set_all_turns()
end

-- Return the pool, which is new: find its workers, unless there are as many pools as there may be.
local function admit_pool(pool)
  if redis.call('HLEN', POOLS) >= MAX_POOLS then
    is_plan_stale = true
    make_plan_if_stale() -- it drops the pools that are not in use
  end
  if redis.call('HLEN', POOLS) >= MAX_POOLS then return end
  open_pool(pool, planned_workers())
  return pool_named(pool)
end
