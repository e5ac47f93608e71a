-- The head of the plan: what each call has to know of it, and whether the plan is to be made anew.
--
-- Reads    PLAN_HEAD, RESTS
-- @include context

-- Load the head of the plan, and find out whether the plan is stale.
local function load_plan()
  local head = redis.call('HMGET', PLAN_HEAD, 'ring', 'workers', 'strategy', 'print', 'stale', 'settles_at', 'resting',
    'away', 'rules', 'top_priority', 'schema', 'rooms', 'memory', 'shared', 'turns', 'keyed_until')
  fleet_print = head[4] or ''
  ring_length, reply.routable = tonumber(head[1]) or 0, tonumber(head[2]) or 0
  if head[7] and redis.call('EXISTS', RESTS) == 1 then resting, away = tonumber(head[7]), tonumber(head[8]) end
  if call.fleet_print and call.fleet_print ~= fleet_print then fleet_print, is_plan_stale = call.fleet_print, true end
  rooms = tonumber(head[12]) or MAX_POOLS -- a plan of the last release does not tell
  has_memory, is_shared, has_turns = head[13] == '1', head[14] == '1', head[15] == '1'
  if head[16] and tonumber(head[16]) > now then reply.keyed_ms = head[16] - now end
  has_rules, top_priority = head[9] == '1', tonumber(head[10])
  local is_ours = head[3] == rules.strategy and tonumber(head[11]) == SCHEMA_VERSION
  if not head[1] or head[5] or not is_ours then is_plan_stale = true end
  settles_at = head[1] and tonumber(head[6]) or not head[1] and now + SETTLE_MS or nil
  if settles_at and settles_at <= now then settles_at, is_plan_stale = nil, true end
end

local function make_plan_if_stale()
  if is_plan_stale then Seldom.make_plan() end
end
