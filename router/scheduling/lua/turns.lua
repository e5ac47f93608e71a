-- Whose turn it is: of the lines that may go, the one of the highest priority; then the one whose tenant runs the
-- fewest jobs for its weight; then the one whose head has the lowest ticket. If the head of a line has waited long, the
-- line and all of higher priority are equals.
--
-- TURNS_OF has a room's lines that may go, each as '<ticket of its head> <line>', so that the first member has the
-- turn as long as no head has waited long. If no line but QUEUE waits, it is not kept.
--
-- Twin     router/scheduling/local/turns.py, Turns
-- Reads    TENANTS, WAITING, LAPSE, LEASES_OF
-- Writes   TURNS_OF, LINES, RUNNING_OF, PLAN_HEAD (shared), AGING (lines by the moment at which their heads have waited
--          long), AGED_OF (a room's lines whose heads have, by priority)
-- @lazy Shared
-- @include context
-- @include leases
-- @include lines
-- @include selection

local plain_rule = {weight = 1, priority = 0, max_running = math.huge, max_waiting = math.huge}
local rule_by_tenant = {}
-- By tenant, the pools in which its jobs are pending; and by line, how many jobs its tenant ran when the line was put
-- in its place.
local pools_by_tenant, placed = {}, {}

function Shared.number_within(value, least, most, otherwise)
  return type(value) == 'number' and value >= least and value <= most and value or otherwise
end

-- A TenantRule (router/policy/tenants.py); of a text that is none, the parts that can be read.
function Shared.read_rule(text)
  local is_json, held = pcall(cjson.decode, text)
  if not is_json or type(held) ~= 'table' then return plain_rule end
  return {
    weight = Shared.number_within(held.weight, 1, MAX_TENANT_WEIGHT, 1),
    priority = Shared.number_within(held.priority, -MAX_PRIORITY, MAX_PRIORITY, 0),
    max_running = Shared.number_within(held.max_running, 1, MAX_COUNT, math.huge),
    max_waiting = Shared.number_within(held.max_waiting, 0, MAX_COUNT, math.huge),
  }
end

function Shared.rule_of(tenant)
  if not has_rules then return plain_rule end
  if not rule_by_tenant[tenant] then
    local held = redis.pcall('HMGET', TENANTS, tenant, DEFAULT)
    local text = held[1] or held[2]
    rule_by_tenant[tenant] = text and Shared.read_rule(text) or plain_rule
  end
  return rule_by_tenant[tenant]
end

-- Whether as many jobs of the tenant run as may.
function Shared.runs_most(tenant)
  local most = Shared.rule_of(tenant).max_running
  return most < math.huge and running(tenant) >= most
end

-- The highest priority of all rules; nil if all are equal.
function Shared.highest_priority()
  local held, priorities = redis.pcall('HGETALL', TENANTS), {[DEFAULT] = 0}
  for index = 1, #held, 2 do priorities[held[index]] = Shared.read_rule(held[index + 1]).priority end
  local highest, lowest = priorities[DEFAULT], priorities[DEFAULT]
  for _, priority in pairs(priorities) do
    highest, lowest = math.max(highest, priority), math.min(lowest, priority)
  end
  return highest ~= lowest and highest or nil
end

function Shared.turn_of(ticket, tenant, pool) return string.format('%016.0f ', ticket) .. tenant .. '/' .. pool end

-- The moment at which a pending job has waited long. The last release does not tell it.
function Shared.ages_at(name)
  local since = string.match(redis.call('HGET', WAITING, name) or '', ' @(%d+)')
  return since and since + rules.aging_ms or math.huge
end

-- Put the line in its place; return whether it has any job. `before` is the ticket of its last head, or of a job that
-- was perhaps its head.
function Shared.set_turn(tenant, pool, before)
  if lines <= 1 then return end
  local its_pool = pool_named(pool)
  if not its_pool then return redis.call('EXISTS', queue_of(tenant, pool)) == 1 end
  local line, turns, rule = tenant .. '/' .. pool, TURNS_OF .. its_pool.room, Shared.rule_of(tenant)
  local head = redis.call('ZRANGE', queue_of(tenant, pool), 0, 0, 'WITHSCORES')
  local turn = head[1] and Shared.turn_of(head[2], tenant, pool)
  local last_turn = before and Shared.turn_of(before, tenant, pool)
  if before and last_turn ~= turn then redis.call('ZREM', turns, last_turn) end
  local is_low = top_priority and rule.priority < top_priority
  if not turn then
    Shared.remove_line(tenant, pool)
    if is_low then Shared.set_age(line, its_pool.room) end
    return
  end
  placed[line] = running(tenant)
  if not may_go(tenant, pool) then
    redis.call('ZREM', turns, turn)
    if is_low then Shared.set_age(line, its_pool.room) end
  else
    local score = running(tenant) / rule.weight
    if is_low then
      score = score + (top_priority - rule.priority) * PRIORITY_STEP
      Shared.set_age(line, its_pool.room, Shared.ages_at(head[1]), rule.priority)
    end
    redis.call('ZADD', turns, score, turn)
  end
  return true
end

-- Note when the head of a line has waited long, and whether it has; without a moment the line does not count.
function Shared.set_age(line, room, moment, priority)
  if moment and moment > now then redis.call('ZADD', AGING, moment, line) else redis.call('ZREM', AGING, line) end
  if moment and moment <= now then
    redis.call('ZADD', AGED_OF .. room, priority, line)
  else
    redis.call('ZREM', AGED_OF .. room, line)
  end
end

-- The pools in which jobs of the tenant are pending, but for QUEUE.
function Shared.pools_of(tenant)
  if not pools_by_tenant[tenant] then
    local pools = redis.call('ZRANGEBYLEX', LINES, '[' .. tenant .. '/', '(' .. tenant .. '0') -- 0 comes after /
    for place, line in ipairs(pools) do pools[place] = string.sub(line, #tenant + 2) end
    pools_by_tenant[tenant] = pools
  end
  return pools_by_tenant[tenant]
end

-- Put the line in its place if its tenant runs more or fewer jobs than when it was put there.
function Shared.set_changed_turn(tenant, pool, is_all)
  local its_pool = pool_named(pool)
  local is_due = its_pool and (is_all or is_open(its_pool.room))
  if not is_due then return end
  local ran = placed[tenant .. '/' .. pool] or running(tenant) - has_changed[tenant]
  if ran ~= running(tenant) then Shared.set_turn(tenant, pool) end
end

-- Put the lines in their places whose tenants run more or fewer jobs now: those whose room has a worker, or all.
function Shared.set_changed_turns(is_all)
  for tenant in pairs(has_changed) do
    for _, pool in ipairs(Shared.pools_of(tenant)) do Shared.set_changed_turn(tenant, pool, is_all) end
    if tenant == DEFAULT then Shared.set_changed_turn(DEFAULT, '', is_all) end
  end
  if is_all then has_changed = {} end
end

-- Put the lines in their places that have waited long. And QUEUE, for routers of the last release take jobs from it.
function Shared.set_due_turns()
  Shared.set_turn(DEFAULT, '')
  if not top_priority then return end
  for _, line in ipairs(redis.call('ZRANGEBYSCORE', AGING, '-inf', now)) do
    Shared.set_turn(string.match(line, '^([^/]*)/(.*)$'))
  end
end

function Shared.add_line(tenant, pool)
  redis.call('ZADD', LINES, 0, tenant .. '/' .. pool)
  pools_by_tenant[tenant] = nil
end

function Shared.remove_line(tenant, pool)
  redis.call('ZREM', LINES, tenant .. '/' .. pool)
  pools_by_tenant[tenant] = nil
end

-- Drop all turns: only one line waits, or all are set anew.
function Shared.drop_turns()
  for room = 0, rooms do redis.call('DEL', TURNS_OF .. room, AGED_OF .. room) end
  redis.call('DEL', AGING)
  redis.call('HDEL', PLAN_HEAD, 'turns')
  has_turns = false
end

-- Put all lines in their places: several wait now, or the rules have changed.
function Shared.set_all_turns()
  Shared.drop_turns()
  if lines <= 1 then return end
  has_turns = true
  redis.call('HSET', PLAN_HEAD, 'turns', 1)
  Shared.set_turn(DEFAULT, '')
  for _, line in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do Shared.set_turn(string.match(line, '^([^/]*)/(.*)$')) end
end

-- Return the first turn of a room with a score of at least `least`, and its score; nothing if there is none.
function Shared.turn_from(least, room, look)
  local done = look.done[room] or 0
  local turns = redis.call('ZRANGEBYSCORE', TURNS_OF .. room, least, '+inf', 'WITHSCORES', 'LIMIT', 0, done + 1)
  for index = 1, #turns, 2 do
    if not look.is_done[string.match(turns[index], ' (.*)$')] then return turns[index], tonumber(turns[index + 1]) end
  end
end

-- Return the first turn of a room and its score; nothing if no line may go.
function Shared.first_turn(room, look)
  local aged = top_priority and redis.call('ZRANGE', AGED_OF .. room, 0, 0, 'WITHSCORES')[2]
  if not aged then return Shared.turn_from('-inf', room, look) end
  -- The lines of each priority from the highest one down to `aged` are equals: the first of each is compared.
  local first, lowest, below = nil, nil, 0
  while below <= top_priority - aged do
    local turn, score = Shared.turn_from(string.format('%.0f', below * PRIORITY_STEP), room, look)
    if not turn then break end
    below = math.floor(score / PRIORITY_STEP)
    score = score - below * PRIORITY_STEP
    local is_better = not first or score < lowest or score == lowest and turn < first
    if below <= top_priority - aged and is_better then first, lowest = turn, score end
    below = below + 1
  end
  if first then return first, lowest end
  return Shared.turn_from(string.format('%.0f', (top_priority - aged + 1) * PRIORITY_STEP), room, look)
end

-- Return the tenant, the pool and the head's ticket of the line whose turn it is; nothing if no line may go, or no
-- worker that would take its jobs has room. `look` is as in serving.lua.
function Shared.first_of_all(look)
  local first, lowest
  for room = 0, rooms do
    local turn, score
    if may_look_at(room, look) then turn, score = Shared.first_turn(room, look) end
    if turn and (not first or score < lowest or score == lowest and turn < first) then first, lowest = turn, score end
  end
  if not first then return end
  local ticket, tenant, pool = string.match(first, '^(%S+) ([^/]*)/(.*)$')
  return tenant, pool, tonumber(ticket)
end

-- Count the running jobs of the tenant `default` anew: routers of the last release do not.
function Shared.count_default()
  write_leases()
  redis.call('DEL', RUNNING_OF .. DEFAULT)
  running_of[DEFAULT], has_changed[DEFAULT] = nil, math.huge
  for _, url in ipairs(redis.call('ZRANGE', LAPSE, 0, -1)) do
    local held = redis.call('ZRANGE', LEASES_OF .. url, 0, -1, 'WITHSCORES')
    for index = 1, #held, 2 do
      local name, moment = held[index], held[index + 1]
      if tenant_of(name) == DEFAULT then redis.call('ZADD', RUNNING_OF .. DEFAULT, moment, name) end
    end
  end
end

-- From now on the tenants share the fleet.
function Shared.share()
  is_shared = true
  redis.call('HSET', PLAN_HEAD, 'shared', 1)
  Shared.count_default()
end
