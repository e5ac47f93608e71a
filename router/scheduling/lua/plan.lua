-- The plan: which workers may get jobs, with which cap, weight and places in the ring.
--
-- It is kept between calls, and made anew when the fleet or an ejection has changed. Only this reads all workers.
--
-- Twin     router/scheduling/local/plan.py, Plan
-- Reads    WORKERS, WORKER_OF, DRAIN, BREAKER_OF, TENANTS, LINES
-- Writes   MEMORY, PLAN, PLAN_HEAD (apart from PLAN, for each call reads it), ROOM, ROOM_OF, POOLS, PLACES, ROUNDS,
--          EJECTED, FINISHED
-- @lazy Seldom
-- @include context
-- @include breaker
-- @include journal
-- @include leases
-- @include order
-- @include room
-- @include selection
-- @include slow_start
-- @include turns

-- The workers that may get jobs: the healthy ones; if there are none, those that have not been checked. Return also
-- whether they are healthy and, of all workers that are not drained, which are unhealthy or ejected.
function Seldom.candidates()
  local urls = redis.call('SMEMBERS', WORKERS)
  table.sort(urls)
  local is_draining, is_known, is_out = {}, {}, {}
  -- Operators write DRAIN by hand. If it is of another type, the answer is an error, and no worker is drained.
  for _, url in ipairs(redis.pcall('SMEMBERS', DRAIN)) do is_draining[url] = true end
  local by_health = {healthy = {}, unknown = {}, unhealthy = {}}
  for _, url in ipairs(urls) do
    is_known[url] = true
    local held = redis.pcall('HMGET', WORKER_OF .. url, 'health', 'weight', 'max_concurrency', 'memory_mb',
      'speed')
    if held.err then held = {} end -- a key of another type: nothing is known of the worker
    local is_ejected = redis.call('ZSCORE', EJECTED, url)
    if is_ejected and held[1] == 'unhealthy' then -- the sidecar will let it back in
      forget(url)
      Seldom.note_return(url, 'it is unhealthy by now, and gets jobs when its checks are good')
    end
    local is_trial = is_ejected and redis.call('HGET', BREAKER_OF .. url, 'trial') == 'open'
    if not is_draining[url] then is_out[url] = is_ejected ~= false or held[1] == 'unhealthy' end
    if not is_draining[url] and (not is_ejected or is_trial) then
      local group = by_health[held[1]] or by_health.unknown
      local cap = is_trial and TRIAL or whole_number(held[3], MAX_COUNT, 0)
      local weight, memory = whole_number(held[2], MAX_WEIGHT, 1), whole_number(held[4], MAX_MEMORY_MB, nil)
      local speed = Shared.number_within(tonumber(held[5] or nil), 1 / MAX_SPEED, MAX_SPEED, 1)
      group[#group + 1] = {
        url = url, weight = weight, cap = cap, memory = memory, is_slow = speed * rules.slower_than < 1, places = {},
      }
    end
  end
  for _, url in ipairs(redis.call('ZRANGE', EJECTED, 0, -1)) do
    if not is_known[url] then forget(url) end
  end
  for _, url in ipairs(redis.call('ZRANGE', FINISHED, 0, -1)) do
    if not is_known[url] then redis.call('ZREM', FINISHED, url) end
  end
  local is_well = #by_health.healthy > 0
  return is_well and by_health.healthy or by_health.unknown, is_well, is_out
end

-- Find the workers of the pools for which jobs are pending.
function Seldom.open_pools_in_use(workers)
  if others > 0 then
    for _, line in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do
      local pool = string.match(line, '/(.*)$')
      if pool ~= '' and not Shared.read_named(pool) then Shared.open_pool(pool, workers) end
    end
  end
  local is_print = Shared.known_prints()
  for _, print in ipairs(redis.call('HKEYS', ROUNDS)) do
    if not is_print[print] then redis.call('HDEL', ROUNDS, print) end
  end
end

function Seldom.make_plan()
  is_plan_stale = false
  local was_well = redis.call('HGET', PLAN_HEAD, 'well') == '1' and redis.call('HKEYS', PLAN) or {}
  redis.call('DEL', PLAN, PLAN_HEAD, ROOM, POOLS, PLACES)
  local made = new_plan()
  Shared.forget_memory()
  Shared.drop_turns()
  for room = 1, rooms do redis.call('DEL', ROOM_OF .. room) end
  rooms, pools_open, views = 0, 0, {}
  has_rules = redis.call('EXISTS', TENANTS) == 1
  top_priority, has_order = nil, false
  if has_rules then top_priority, has_order = Shared.read_rules() end
  local workers, is_well, is_out = Seldom.candidates()
  has_memory = false
  for _, worker in ipairs(workers) do
    if worker.memory then
      has_memory = true
      redis.call('HSET', MEMORY, worker.url, worker.memory)
    end
  end
  Seldom.count_rests_anew(workers)
  Seldom.begin_starts(workers, is_out, was_well)
  ring_length, behind = Seldom.lay_rings(workers)
  for _, worker in ipairs(workers) do
    local places = table.concat(worker.places, ',')
    redis.call('HSET', PLAN, worker.url, worker.cap .. ' ' .. worker.weight .. ' ' .. places)
    local entry = know_planned(worker.url, worker.cap .. ' ' .. worker.weight .. ' ' .. places)
    set_room(worker.url, entry, has_room(worker.url, entry.cap))
  end
  redis.call('HSET', PLAN_HEAD, 'made', made, 'ring', ring_length, 'workers', #workers, 'strategy', rules.strategy,
    'print', fleet_print, 'rules', has_rules and 1 or 0, 'memory', has_memory and 1 or 0,
    'rooms', rooms, 'schema', SCHEMA_VERSION, 'behind', behind, 'well', is_well and 1 or 0)
  if has_order then redis.call('HSET', PLAN_HEAD, 'order', 1) end
  if top_priority then redis.call('HSET', PLAN_HEAD, 'top_priority', top_priority) end
  if is_shared or has_rules or others > 0 then Shared.share() end
  if settles_at then redis.call('HSET', PLAN_HEAD, 'settles_at', string.format('%.0f', settles_at)) end
  if reply.keyed_ms then redis.call('HSET', PLAN_HEAD, 'keyed_until', now + reply.keyed_ms) end
  reply.routable, everywhere = #workers, nil
  Seldom.open_pools_in_use(workers)
  Shared.set_all_turns()
  Ordered.drop_unused()
end

-- Return the pool, which is new: find its workers, unless there are as many pools as there may be.
function Seldom.admit_pool(pool)
  if redis.call('HLEN', POOLS) >= MAX_POOLS then
    Seldom.make_plan() -- it drops the pools that are not in use
  end
  if redis.call('HLEN', POOLS) >= MAX_POOLS then return end
  Shared.open_pool(pool, Shared.planned_workers())
  return pool_named(pool)
end
