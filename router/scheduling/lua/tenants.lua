-- The tenants' rules: weight, priority, and how many jobs may run and wait; and whether tenants share the fleet at all.
--
-- Twin     router/scheduling/local/turns.py, Turns.rule
-- Reads    TENANTS, LAPSE, LEASES_OF
-- Writes   RUNNING_OF (of `default`), PLAN_HEAD (shared)
-- @lazy Shared
-- @include context
-- @include leases

local plain_rule = {weight = 1, priority = 0, max_running = math.huge, max_waiting = math.huge}
local rule_by_tenant = {}

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
    order = held.order,
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

-- The highest priority of all rules, nil if all are equal; and whether any tenant's jobs go longest first.
function Shared.read_rules()
  local held, priorities, by_size = redis.pcall('HGETALL', TENANTS), {[DEFAULT] = 0}, false
  for index = 1, #held, 2 do
    local rule = Shared.read_rule(held[index + 1])
    priorities[held[index]], by_size = rule.priority, by_size or rule.order == LONGEST_FIRST
  end
  local highest, lowest = priorities[DEFAULT], priorities[DEFAULT]
  for _, priority in pairs(priorities) do
    highest, lowest = math.max(highest, priority), math.min(lowest, priority)
  end
  return highest ~= lowest and highest or nil, by_size
end

-- Count the running jobs of the tenant `default` anew: routers of the last release do not.
function Shared.count_default()
  write_leases()
  redis.call('DEL', RUNNING_OF .. DEFAULT)
  count_running(DEFAULT, 0.5) -- so that it has changed, whatever more is counted
  running_of[DEFAULT] = nil
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
