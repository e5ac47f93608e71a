-- Whose turn it is: of the lines that may go, the one of the highest priority; then the one whose tenant runs the fewest
-- jobs for its weight; then the one whose head has the lowest ticket.
--
-- A line is the pending jobs of one tenant in one pool: '<tenant>/<pool>'. TURNS_OF has a room's lines that may go, each
-- as '<ticket of its head> <line>', so that the first member has the turn. If no line but QUEUE waits, it is not kept.
--
-- Twin     router/scheduling/turns.py, Turns
-- Reads    TENANTS, QUEUE, QUEUE_OF, WAITING
-- Writes   TURNS_OF, LINES, AGING (lines that have the highest priority from a moment on)
-- @include context
-- @include leases
-- @include pools

local plain_rule = {weight = 1, priority = 0, max_running = math.huge, max_waiting = math.huge}
local rule_by_tenant = {}

local function number_within(value, least, most, otherwise)
  return type(value) == 'number' and value >= least and value <= most and value or otherwise
end

-- A TenantRule (router/policy/tenants.py); of a text that is none, the parts that can be read.
local function read_rule(text)
  local is_json, held = pcall(cjson.decode, text)
  if not is_json or type(held) ~= 'table' then return plain_rule end
  return {
    weight = number_within(held.weight, 1, MAX_TENANT_WEIGHT, 1),
    priority = number_within(held.priority, -MAX_PRIORITY, MAX_PRIORITY, 0),
    max_running = number_within(held.max_running, 1, MAX_COUNT, math.huge),
    max_waiting = number_within(held.max_waiting, 0, MAX_COUNT, math.huge),
  }
end

local function rule_of(tenant)
  if not has_rules then return plain_rule end
  if not rule_by_tenant[tenant] then
    local held = redis.pcall('HMGET', TENANTS, tenant, DEFAULT)
    local text = held[1] or held[2]
    rule_by_tenant[tenant] = text and read_rule(text) or plain_rule
  end
  return rule_by_tenant[tenant]
end

-- The highest priority of all rules; nil if all are equal.
local function highest_priority()
  local held, priorities = redis.pcall('HGETALL', TENANTS), {[DEFAULT] = 0}
  for index = 1, #held, 2 do priorities[held[index]] = read_rule(held[index + 1]).priority end
  local highest, lowest = priorities[DEFAULT], priorities[DEFAULT]
  for _, priority in pairs(priorities) do
    highest, lowest = math.max(highest, priority), math.min(lowest, priority)
  end
  return highest ~= lowest and highest or nil
end

-- Whether as many jobs of the tenant run as may.
local function is_at_most(tenant)
  local most = rule_of(tenant).max_running
  return most < math.huge and running(tenant) >= most
end

local function is_plain(tenant, pool) return tenant == DEFAULT and pool == '' end

local function queue_of(tenant, pool)
  return is_plain(tenant, pool) and QUEUE or QUEUE_OF .. pool .. '/' .. tenant
end

local function turn_of(ticket, tenant, pool) return string.format('%016.0f ', ticket) .. tenant .. '/' .. pool end

-- The moment from which on a pending job goes before jobs of higher priority. The last release does not tell it.
local function ages_at(name)
  local since = string.match(redis.call('HGET', WAITING, name) or '', ' @(%d+)')
  return since and since + rules.aging_ms or math.huge
end

-- Put the line in its place. `before` is the ticket of its last head, or of a job that was perhaps its head.
local function set_turn(tenant, pool, before)
  if others == 0 and is_plain(tenant, pool) then return end
  local its_pool = pool_named(pool)
  if not its_pool then return end
  local line, turns, rule = tenant .. '/' .. pool, TURNS_OF .. its_pool.room, rule_of(tenant)
  local head = redis.call('ZRANGE', queue_of(tenant, pool), 0, 0, 'WITHSCORES')
  local turn = head[1] and turn_of(head[2], tenant, pool)
  if before and turn_of(before, tenant, pool) ~= turn then redis.call('ZREM', turns, turn_of(before, tenant, pool)) end
  if not turn then
    redis.call('ZREM', LINES, line)
    if top_priority then redis.call('ZREM', AGING, line) end
  elseif is_at_most(tenant) then
    redis.call('ZREM', turns, turn)
  else
    local score = running(tenant) / rule.weight
    if top_priority and rule.priority < top_priority then
      local moment = ages_at(head[1])
      if moment > now then
        score = score + (top_priority - rule.priority) * PRIORITY_STEP
        redis.call('ZADD', AGING, moment, line)
      else
        redis.call('ZREM', AGING, line)
      end
    end
    redis.call('ZADD', turns, score, turn)
  end
end

-- The pools in which jobs of the tenant are pending, but for QUEUE.
local function pools_of(tenant)
  local pools = redis.call('ZRANGEBYLEX', LINES, '[' .. tenant .. '/', '(' .. tenant .. '0') -- 0 comes after /
  for place, line in ipairs(pools) do pools[place] = string.sub(line, #tenant + 2) end
  return pools
end

-- Put the lines in their places whose tenants run more or fewer jobs now.
local function set_changed_turns()
  if others > 0 then
    for tenant in pairs(has_changed) do
      for _, pool in ipairs(pools_of(tenant)) do set_turn(tenant, pool) end
    end
    if has_changed[DEFAULT] then set_turn(DEFAULT, '') end
  end
  has_changed = {}
end

-- Put the lines in their places that have waited long. And QUEUE, for routers of the last release take jobs from it.
local function set_due_turns()
  if others == 0 then return end
  set_turn(DEFAULT, '')
  if not top_priority then return end
  for _, line in ipairs(redis.call('ZRANGEBYSCORE', AGING, '-inf', now)) do
    set_turn(string.match(line, '^([^/]*)/(.*)$'))
  end
end

-- Drop all turns: QUEUE is the only line that waits, or all are set anew.
local function drop_turns(last_room)
  for room = 0, last_room do redis.call('DEL', TURNS_OF .. room) end
end

-- Put all lines in their places, after a change of the rules.
local function set_all_turns()
  redis.call('DEL', AGING)
  if others == 0 then return end
  set_turn(DEFAULT, '')
  for _, line in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do set_turn(string.match(line, '^([^/]*)/(.*)$')) end
end

-- The turns of one call's look at the queue: in each room the number of jobs passed over, and the lines of which all jobs
-- have been passed over, `done` of them.
local function new_look() return {passed = {}, is_done = {}, done = {}} end

-- Return the first turn of a room and its score; nothing if no line may go.
local function first_turn(room, look)
  local done = look.done[room] or 0
  local turns = redis.call('ZRANGE', TURNS_OF .. room, 0, done, 'WITHSCORES')
  for index = 1, #turns, 2 do
    if not look.is_done[string.match(turns[index], ' (.*)$')] then return turns[index], tonumber(turns[index + 1]) end
  end
end

local function may_look_at(room, look)
  return (look.passed[room] or 0) < PASSED_OVER_AT_MOST and redis.call('EXISTS', room_key(room)) == 1
end

-- Return the tenant, the pool and the head's ticket of the line whose turn it is; nothing if no line may go, or no worker
-- that would take its jobs has room.
local function whose_turn(look)
  if others == 0 then
    local is_free = not look.is_done[DEFAULT .. '/'] and may_look_at(0, look) and not is_at_most(DEFAULT)
    return is_free and DEFAULT, ''
  end
  local first, lowest
  for room = 0, rooms do
    local turn, score
    if may_look_at(room, look) then turn, score = first_turn(room, look) end
    if turn and (not first or score < lowest or score == lowest and turn < first) then first, lowest = turn, score end
  end
  if not first then return end
  local ticket, tenant, pool = string.match(first, '^(%S+) ([^/]*)/(.*)$')
  return tenant, pool, tonumber(ticket)
end
