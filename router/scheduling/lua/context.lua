-- What one run of the scheduler works on: the call, the rules, the time, and what its parts share.
--
-- ARGV[1]  Call as JSON (router/scheduling/messages.py)
-- ARGV[2]  Rules as JSON
-- ARGV[3]  the time (Unix ms), from tests only: without it Redis' own clock counts
--
-- Names in capitals, such as QUEUE, LEASES_OF and PROCESS_TTL_MS, are keys of router/fleet/schema.py and constants of
-- router/scheduling/redis_scheduler.py. The loader fills in their values.
local call = cjson.decode(ARGV[1])

-- The rules of the last call: they are read again only if the text is another one.
-- @kept
local rules_text, rules
if rules_text ~= ARGV[2] then rules_text, rules = ARGV[2], cjson.decode(ARGV[2]) end

-- The time, and as a text that is exact enough to be a name.
local now, moment_of_call = tonumber(ARGV[3]), ARGV[3]
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  moment_of_call = time[1] .. '.' .. time[2]
end
-- How many jobs the call is about, but no more than are read at once.
local jobs_in_call = math.min(JOBS_READ, math.max(1, #(call.arrived or {}) + #(call.came or {}) / 5 +
  #(call.ended or {}) + #(call.done or {}) / 3))
local is_by_load = rules.strategy == 'least_loaded'
-- Whether jobs may have second runs.
local may_hedge = rules.hedge_percent > 0
local reply = {}

-- What the arriving job `number` asks for besides a lease, Wish's fields (router/scheduling/messages.py); nil: no more.
local wish_by_number
local function wish_of(number)
  if not wish_by_number then
    wish_by_number = {}
    for _, wish in ipairs(call.wishes or {}) do wish_by_number[wish[1]] = wish end
  end
  return wish_by_number[number]
end

-- The plan, as plan.lua loads or makes it.
local ring_length = 0
local fleet_print = ''
local is_plan_stale = false
-- How many rooms there are besides room 0, which has all workers.
local rooms = 0
-- How many pools there are.
local pools_open = 0
-- Whether there is a tenant besides `default`, or has been; until then that one's running jobs are not counted.
local is_shared = false
-- Whether the turns of several lines are kept.
local has_turns = false
-- Whether any worker counts the memory of its jobs.
local has_memory = false
-- Whether any tenant has a rule; and the highest priority that a rule gives, unless all give the same.
local has_rules, top_priority = false, nil
-- Whether the jobs of any tenant go longest first.
local has_order = false
-- Until this moment a memory that began empty does not know what runs: workers with a cap get no jobs, and every process
-- has time to hand in the leases that it holds. nil: the memory has settled.
local settles_at

-- How long the ring of the slow workers is, whose places come behind all others.
local behind = 0
-- How many workers have come back and have not yet all their slots.
local starting = 0
-- How many workers rest, and how many of them because they cannot be reached.
local resting, away = 0, 0
-- When the first of the workers whose rests this call was about may get a job; nil: none of them.
local look_at

-- How many jobs are pending; how many of them in other lines than QUEUE, which has the jobs of the tenant `default` in
-- the pool of all workers; and in how many lines they are. While there is only one, no turns are kept.
local waiting, others, lines = 0, 0, 0

-- The name of a pending job of the calling process.
local function holder(number) return string.format('%s:%.0f', call.process, number) end

local function tenant_named(name) return name ~= '' and name or DEFAULT end

-- The name of the lease of a job. It tells whose the job is and how much memory it takes, unless it is a job as the
-- last release knows them.
local function lease_name(job, tenant, memory)
  if tenant == DEFAULT and memory == 0 then return job end
  return job .. ' ' .. tenant .. ' ' .. string.format('%.0f', memory)
end

local function tenant_of(name) return string.match(name, ' (%S+) %S+$') or DEFAULT end

-- Call a command on a key with many words, in parts, for Lua passes only some thousands at once. `words` is a list of
-- pairs if the command takes pairs. Return the sum of the answers, or all their values.
local function call_with(words, command, key)
  if #words == 0 then return {} end
  if #words <= WORDS_A_COMMAND then return redis.call(command, key, unpack(words)) end
  local sum, values = 0, {}
  for first = 1, #words, WORDS_A_COMMAND do
    local last = math.min(#words, first + WORDS_A_COMMAND - 1)
    local answer = redis.call(command, key, unpack(words, first, last))
    if type(answer) == 'number' then
      sum = sum + answer
    else
      for _, value in ipairs(answer) do values[#values + 1] = value end
    end
  end
  return values[1] ~= nil and values or sum
end

-- Add values to a list of the reply.
local function tell(field, value, other)
  local list = reply[field]
  if not list then
    list = {}
    reply[field] = list
  end
  list[#list + 1] = value
  if other then list[#list + 1] = other end
end

-- A number as it is kept, so that the Python twin can round alike.
local function written(number) return string.format('%.3f', number) end

-- A field of a hash that redis-cli may have written: `otherwise`, unless it is a whole number from 1 to `most`.
local function whole_number(text, most, otherwise)
  local number = text and #text <= 10 and string.match(text, '^%d+$') and tonumber(text)
  return number and number >= 1 and number <= most and number or otherwise
end
