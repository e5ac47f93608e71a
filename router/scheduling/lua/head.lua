-- The head of the plan: what each call has to know of it, and whether the plan is to be made anew.
--
-- Reads    PLAN_HEAD, RESTS
-- @include context
-- @include remembered

-- What stays as long as the plan does.
local function load_constants()
  local head = redis.call('HMGET', PLAN_HEAD, 'ring', 'workers', 'behind', 'strategy', 'print', 'schema', 'rules',
    'memory', 'order', 'top_priority')
  return {
    ring = tonumber(head[1] or nil), workers = tonumber(head[2] or nil) or 0, behind = tonumber(head[3] or nil) or 0,
    strategy = head[4], print = head[5] or '', schema = tonumber(head[6] or nil), has_rules = head[7] == '1',
    has_memory = head[8] == '1', has_order = head[9] == '1', top_priority = tonumber(head[10] or nil),
  }
end

-- Load the head of the plan, and find out whether the plan is stale.
local function load_plan()
  local head = redis.call('HMGET', PLAN_HEAD, 'made', 'rooms', 'pools', 'stale', 'turns', 'shared', 'settles_at',
    'resting', 'away', 'starting', 'keyed_until')
  rooms = tonumber(head[2] or nil) or MAX_POOLS -- a plan of the last release does not tell
  pools_open = tonumber(head[3] or nil) or 0
  remember_plan(head[1] or '')
  if not remembered.head then remembered.head = load_constants() end
  local constant = remembered.head
  fleet_print, ring_length, behind, reply.routable =
    constant.print, constant.ring or 0, constant.behind, constant.workers
  has_rules, has_memory, has_order = constant.has_rules, constant.has_memory, constant.has_order
  top_priority = constant.top_priority
  if head[8] and redis.call('EXISTS', RESTS) == 1 then resting, away = tonumber(head[8]), tonumber(head[9]) end
  if call.fleet_print and call.fleet_print ~= fleet_print then fleet_print, is_plan_stale = call.fleet_print, true end
  has_turns, is_shared, starting = head[5] == '1', head[6] == '1', tonumber(head[10] or nil) or 0
  if head[11] and tonumber(head[11]) > now then reply.keyed_ms = head[11] - now end
  local is_ours = constant.strategy == rules.strategy and constant.schema == SCHEMA_VERSION
  if not constant.ring or head[4] or not is_ours then is_plan_stale = true end
  settles_at = constant.ring and tonumber(head[7] or nil) or not constant.ring and now + SETTLE_MS or nil
  if settles_at and settles_at <= now then settles_at, is_plan_stale = nil, true end
end

local function make_plan_if_stale()
  if is_plan_stale then Seldom.make_plan() end
end
