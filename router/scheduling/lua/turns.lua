-- Whose turn it is: of the lines that may go, the one of the highest priority; then the one whose tenant runs the
-- fewest jobs for its weight; then the one whose head has the lowest ticket. If the head of a line has waited long, the
-- line and all of higher priority are equals.
--
-- TURNS_OF has a room's lines that may go, each as '<ticket of its head> <line>', so that the first member has the
-- turn as long as no head has waited long. LINES has the tickets of the heads. If one line waits alone, neither is
-- kept. A call leaves both as they are until its end. Lines that have changed, and those of tenants that run more or
-- fewer jobs now, are known to it: it compares these with the first one of the others. QUEUE is always known, and not
-- in TURNS_OF, for routers of the last release take jobs from it.
--
-- Twin     router/scheduling/local/turns.py, Turns
-- Reads    POOLS
-- Writes   TURNS_OF, LINES, PLAN_HEAD (turns), AGING (lines by the moment at which their heads have waited long),
--          AGED_OF (a room's lines whose heads have, by priority)
-- @lazy Shared
-- @include context
-- @include leases
-- @include lines
-- @include queue
-- @include selection
-- @include tenants

-- The known lines by name, and those with jobs by room. `ticket` is that of the line's head, nil if it is empty;
-- `stored` is the one in LINES.
local known, known_in = {}, {}
-- By room: the line that has the turn, as far as it is known, or false; the front of TURNS_OF; of how many tenants that
-- run more or fewer jobs now the lines are known.
local firsts, fronts, tenants_known_in = {}, {}, {}

function Shared.turn_of(line, ticket) return string.format('%016.0f ', ticket) .. line.name end

-- The line's pool may be opened after the line has become known.
function Shared.list_line(line)
  line.room = line.room or (pool_named(line.pool) or {}).room
  if line.is_listed or not line.room or not line.ticket then return end
  local list = listed(known_in, line.room)
  list[#list + 1], line.is_listed = line, true
end

function Shared.add_known(name, ticket)
  local tenant, pool = string.match(name, '^([^/]*)/(.*)$')
  local is_queue = is_plain(tenant, pool)
  local line = {name = name, tenant = tenant, pool = pool, is_queue = is_queue}
  if is_queue then
    local head = job_at(at_hand(tenant, pool), 1)
    ticket = head and head.ticket
  else
    line.stored = ticket
  end
  line.ticket, known[name] = ticket, line
  Shared.list_line(line)
  return line
end

-- Know these lines. A name may come twice.
function Shared.know(names)
  local unknown = {}
  for _, name in ipairs(names) do
    if not known[name] then unknown[#unknown + 1] = name end
  end
  local tickets = call_with(unknown, 'ZMSCORE', LINES)
  for place, name in ipairs(unknown) do
    if not known[name] then Shared.add_known(name, tonumber(tickets[place] or nil)) end -- a name may come twice
  end
end

function Shared.known_line(tenant, pool)
  local name = tenant .. '/' .. pool
  if not known[name] then Shared.know({name}) end
  return known[name]
end

-- The ticket of a line's head; nil if it has no jobs.
function Shared.head_ticket(tenant, pool) return Shared.known_line(tenant, pool).ticket end

-- Take in that a line has another head, or may go now, or may not; return whether it has any job.
function Shared.set_head(tenant, pool)
  if lines <= 1 then return end
  local line, head = Shared.known_line(tenant, pool), job_at(at_hand(tenant, pool), 1)
  line.ticket, line.is_changed = head and head.ticket, true
  Shared.list_line(line)
  if line.room then firsts[line.room] = nil end
  return line.ticket ~= nil
end

-- The pools in use, by room.
function Shared.pools_in(room)
  if remembered.pools_listed ~= pools_open then
    local by_room, held = {[0] = {''}}, redis.call('HGETALL', POOLS)
    for index = 1, #held, 2 do
      local list = listed(by_room, tonumber(string.match(held[index + 1], '^%d+')))
      list[#list + 1] = held[index]
    end
    remembered.pools_by_room, remembered.pools_listed = by_room, pools_open
  end
  return remembered.pools_by_room[room] or {}
end

-- The names of a tenant's lines in these rooms, which need not have jobs.
function Shared.name_lines(tenant, first_room, last_room, names)
  for room = first_room, last_room do
    for _, pool in ipairs(Shared.pools_in(room)) do names[#names + 1] = tenant .. '/' .. pool end
  end
end

-- Know a room's lines of the tenants of which the call has begun or ended jobs.
function Shared.know_changed(room)
  local before, names = tenants_known_in[room], {}
  if before == #changed_tenants then return end
  if room == 0 and not before then names[1] = DEFAULT .. '/' end
  for place = (before or 0) + 1, #changed_tenants do
    Shared.name_lines(changed_tenants[place], room, room, names)
  end
  tenants_known_in[room] = #changed_tenants
  Shared.know(names)
end

-- The moment at which the head of a line has waited long. The last release does not tell it.
function Shared.ages_at(line)
  local head = job_at(at_hand(line.tenant, line.pool), 1)
  local asked = head and asked_by(head.name)
  return asked and asked.since and asked.since + rules.aging_ms or math.huge
end

-- By how much the line's priority is below the highest one.
function Shared.below(line)
  return top_priority and math.max(0, top_priority - Shared.rule_of(line.tenant).priority) or 0
end

-- The lowest priority of the room's lines whose heads have waited long; nil if none has.
function Shared.aged_in(room)
  if not top_priority then return end
  local lowest, offset = nil, 0
  for _, line in ipairs(known_in[room] or {}) do
    local priority = Shared.rule_of(line.tenant).priority
    local is_low = line.ticket and priority < top_priority and (not lowest or priority < lowest)
    if is_low and may_go(line.tenant, line.pool) and Shared.ages_at(line) <= now then lowest = priority end
  end
  while true do
    local aged = redis.call('ZRANGE', AGED_OF .. room, offset, offset + TURNS_READ - 1, 'WITHSCORES')
    for index = 1, #aged, 2 do
      if not known[aged[index]] then return math.min(lowest or math.huge, tonumber(aged[index + 1])) end
    end
    if #aged < 2 * TURNS_READ then return lowest end
    offset = offset + TURNS_READ
  end
end

-- The first turn of a room, with a score of at least `least`, of a line that is not known; nil if there is none.
function Shared.stored_from(room, least, front)
  while true do
    while front.turns[front.index] do
      local ticket, name = string.match(front.turns[front.index], '^(%S+) (.*)$')
      if not known[name] then
        return {name = name, ticket = tonumber(ticket), score = tonumber(front.turns[front.index + 1])}
      end
      front.index = front.index + 2
    end
    if front.is_last then return end
    front.turns = redis.call('ZRANGEBYSCORE', TURNS_OF .. room, least, '+inf', 'WITHSCORES', 'LIMIT', front.offset,
      TURNS_READ)
    front.index, front.offset, front.is_last = 1, front.offset + TURNS_READ, #front.turns < 2 * TURNS_READ
  end
end

function Shared.new_front() return {turns = {}, index = 1, offset = 0} end

function Shared.is_better(turn, other)
  if not other or turn.score ~= other.score then return not other or turn.score < other.score end
  return turn.ticket < other.ticket or turn.ticket == other.ticket and turn.name < other.name
end

-- The first turn of the room's lines that are not known. Those of each priority from the highest one down to `aged`
-- are equals: the first of each is compared.
function Shared.first_stored(room, aged)
  if not aged then
    fronts[room] = fronts[room] or Shared.new_front()
    return Shared.stored_from(room, '-inf', fronts[room])
  end
  local first, below = nil, 0
  while below <= top_priority - aged do
    local turn = Shared.stored_from(room, string.format('%.0f', below * PRIORITY_STEP), Shared.new_front())
    if not turn then return first end
    below = math.floor(turn.score / PRIORITY_STEP)
    if below > top_priority - aged then return first or turn end
    turn.score = turn.score - below * PRIORITY_STEP
    if Shared.is_better(turn, first) then first = turn end
    below = below + 1
  end
  return first
end

function Shared.score_of(line)
  if not has_rules then return running(line.tenant) end
  return running(line.tenant) / Shared.rule_of(line.tenant).weight + Shared.below(line) * PRIORITY_STEP
end

-- The line that has the turn in a room; nil if no line may go.
function Shared.first_turn(room, look)
  Shared.know_changed(room)
  local aged = Shared.aged_in(room)
  local first = Shared.first_stored(room, aged)
  local lowest = first and first.score or math.huge
  for _, line in ipairs(known_in[room] or {}) do
    if line.ticket then
      line.score = not has_rules and running_of[line.tenant] or Shared.score_of(line)
      local below = aged and Shared.below(line) or 0
      if below > 0 and top_priority - below >= aged then line.score = line.score - below * PRIORITY_STEP end
      local is_first = line.score <= lowest and Shared.is_better(line, first) and not look.is_done[line.name]
      if is_first and may_go(line.tenant, line.pool) then first, lowest = line, line.score end
    end
  end
  if not first then return end
  local tenant, pool = string.match(first.name, '^([^/]*)/(.*)$')
  return {
    name = first.name, ticket = first.ticket, score = first.score, tenant = tenant, pool = pool,
    ran = has_changed[tenant] or 0,
  }
end

-- Look at all turns anew.
function Shared.forget_firsts() firsts = {} end

-- Return the tenant and the pool of the line whose turn it is; nothing if no line may go, or no worker that would take
-- its jobs has room. `look` is as in serving.lua. Since that began, tenants run more jobs and not fewer: a room whose
-- first line is of a tenant that runs more by now has no better one, so it is looked at anew only if that would win.
function Shared.first_of_all(look)
  local first
  for room = 0, rooms do
    if may_look_at(room, look) then
      local turn = firsts[room]
      local is_old = turn and turn.ran ~= (has_changed[turn.tenant] or 0) and Shared.is_better(turn, first)
      if turn == nil or is_old then
        turn = Shared.first_turn(room, look) or false
        firsts[room] = turn
      end
      if turn and Shared.is_better(turn, first) then first = turn end
    end
  end
  if not first then return end
  if not known[first.name] then Shared.add_known(first.name, first.ticket) end
  return first.tenant, first.pool
end

-- Pass over all jobs of the line.
function Shared.pass_over(tenant, pool, room)
  Shared.known_line(tenant, pool)
  firsts[room] = nil
end

-- Know the lines that have waited long by now.
function Shared.know_due()
  if not top_priority then return end
  local due = redis.call('ZRANGEBYSCORE', AGING, '-inf', now)
  Shared.know(due)
  for _, name in ipairs(due) do known[name].is_changed = true end
end

-- The pools in which jobs of the tenant are pending, but for QUEUE.
function Shared.pools_of(tenant)
  local names, pools = {}, {}
  Shared.name_lines(tenant, 0, rooms, names)
  local tickets = call_with(names, 'ZMSCORE', LINES)
  for place, name in ipairs(names) do
    if tickets[place] then pools[#pools + 1] = string.sub(name, #tenant + 2) end
  end
  return pools
end

function Shared.add_line(tenant, pool) redis.call('ZADD', LINES, 0, tenant .. '/' .. pool) end

function Shared.remove_line(tenant, pool) redis.call('ZREM', LINES, tenant .. '/' .. pool) end

-- Note when the head of a line has waited long, and whether it has; without a moment the line does not count.
function Shared.set_age(line, moment, priority)
  if moment and moment > now then
    redis.call('ZADD', AGING, moment, line.name)
  else
    redis.call('ZREM', AGING, line.name)
  end
  if moment and moment <= now then
    redis.call('ZADD', AGED_OF .. line.room, priority, line.name)
  else
    redis.call('ZREM', AGED_OF .. line.room, line.name)
  end
end

-- Write the tickets of the known lines' heads.
function Shared.write_heads()
  local set, gone = {}, {}
  for name, line in pairs(known) do
    if line.stored ~= line.ticket and not line.is_queue then
      if line.ticket then set[#set + 1], set[#set + 2] = line.ticket, name else gone[#gone + 1] = name end
    end
  end
  call_with(set, 'ZADD', LINES)
  call_with(gone, 'ZREM', LINES)
end

-- Add to `set` and `gone`, by room, what is to be written of a line.
function Shared.write_turn(line, set, gone)
  local is_in = line.ticket and may_go(line.tenant, line.pool)
  if line.stored and not (is_in and line.stored == line.ticket) then
    local list = listed(gone, line.room)
    list[#list + 1] = Shared.turn_of(line, line.stored)
  end
  if is_in then
    local list = listed(set, line.room)
    list[#list + 1], list[#list + 2] = Shared.score_of(line), Shared.turn_of(line, line.ticket)
  end
  if Shared.below(line) > 0 then
    Shared.set_age(line, is_in and Shared.ages_at(line) or nil, Shared.rule_of(line.tenant).priority)
  end
end

-- Put the lines in their places that have changed, and those of tenants that run more or fewer jobs now.
function Shared.write_turns()
  local names, set, gone = {}, {}, {}
  for tenant, difference in pairs(has_changed) do
    if difference ~= 0 then Shared.name_lines(tenant, 0, rooms, names) end
  end
  Shared.know(names)
  for _, line in pairs(known) do
    local is_due = line.is_changed or line.ticket and (has_changed[line.tenant] or 0) ~= 0
    if is_due and line.room and not line.is_queue then Shared.write_turn(line, set, gone) end
  end
  for room, words in pairs(gone) do call_with(words, 'ZREM', TURNS_OF .. room) end
  for room, words in pairs(set) do call_with(words, 'ZADD', TURNS_OF .. room) end
  Shared.write_heads()
end

-- Drop all turns: only one line waits, or all are set anew.
function Shared.drop_turns()
  Shared.write_heads()
  for room = 0, rooms do redis.call('DEL', TURNS_OF .. room, AGED_OF .. room) end
  redis.call('DEL', AGING)
  redis.call('HDEL', PLAN_HEAD, 'turns')
  has_turns = false
  known, known_in, firsts, fronts, tenants_known_in = {}, {}, {}, {}, {}
end

-- Put all lines in their places: several wait now, or the rules have changed.
function Shared.set_all_turns()
  Shared.drop_turns()
  if lines <= 1 then return end
  has_turns = true
  redis.call('HSET', PLAN_HEAD, 'turns', 1)
  for _, name in ipairs(redis.call('ZRANGE', LINES, 0, -1)) do
    local tenant, pool = string.match(name, '^([^/]*)/(.*)$')
    Shared.add_known(name, 0)
    Shared.set_head(tenant, pool)
  end
end
