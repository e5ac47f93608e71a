#!lua
-- The scheduler: does all that one call of a router process says, in one atomic step. It ends leases, drops those whose
-- moment has passed, and gives room to pending jobs: first those whose turn it is.
--
-- The line `#!lua` makes a Redis without memory refuse the whole call. Else Redis would refuse only calls whose first
-- command takes memory, and would seem available and unavailable in turn.
--
-- KEYS[1]  plan: it names the Cluster slot
-- ARGV     as context.lua has them
-- Twin     router/scheduling/local/scheduler.py, LocalScheduler.step: hypothesis runs the two against each other
-- Reads    FLEET, EJECTED
-- Writes   FINISHED, and what the parts write
-- Returns  Reply as JSON (router/scheduling/messages.py)
-- @include context
-- @include arrivals
-- @include breaker
-- @include budget
-- @include head
-- @include heartbeat
-- @include hedges
-- @include leases
-- @include memory
-- @include order
-- @include plan
-- @include pools
-- @include quarantine
-- @include queue
-- @include reservations
-- @include rests
-- @include reuse
-- @include ring
-- @include room
-- @include serving
-- @include sharing
-- @include slow_start
-- @include tenants
-- @include turns

local has_finished = {}

-- Take in what became of a lease. The arguments are Ended's fields.
local function end_attempt(url, number, blame, is_over, job, cause, ms, tenant, memory)
  tenant = tenant_named(tenant)
  local name = lease_name(holder(number), tenant, memory)
  if is_over and drop_lease(url, name) then
    end_run(tenant, name)
    update_room_after_end(url)
  end
  if blame == 'busy' or blame == 'away' then
    if Seldom.turn_away(url, blame == 'away', ms) then set_room_anew(url) end
  elseif resting > 0 and (blame == 'ok' or blame == 'error' or blame == 'doubt') then
    if Seldom.hear_of_answer(url) then set_room_anew(url) end
  end
  judge(url, name, blame, job, cause, ms)
  if blame == 'died' then Seldom.hear_of_death(job, url, name, ms) end
  if blame == 'ok' then
    if job ~= '' then Seldom.exonerate(job) end
    has_finished[url] = true
  end
end

-- Take in what became of leases.
local function end_attempts(ended)
  local urls, words = {}, {}
  for place, attempt in ipairs(ended) do urls[place] = attempt[1] end
  read_planned(urls)
  look_for_breakers(urls)
  for _, attempt in ipairs(ended) do end_attempt(unpack(attempt)) end
  -- The sidecar reads it: a worker that ends jobs well is not dead, even if it is too busy to answer a health check.
  for url in pairs(has_finished) do words[#words + 1], words[#words + 2] = now, url end
  call_with(words, 'ZADD', FINISHED)
end

local fleet = redis.call('HMGET', FLEET, 'written_at', 'schema')
if not fleet[1] then return '{"has_fleet":false}' end
if (tonumber(fleet[2]) or 1) > SCHEMA_VERSION then return cjson.encode({newer_schema = tonumber(fleet[2])}) end
load_plan()
count_lines()
make_plan_if_stale()
if has_turns ~= (lines > 1) then Shared.set_all_turns() end -- a router of the last release has filled or emptied QUEUE
if call.ended then end_attempts(call.ended) end
for _, claimed in ipairs(call.claims or {}) do claim(unpack(claimed)) end
drop_lapsed()
write_ended_runs()
for _, url in ipairs(redis.call('ZRANGEBYSCORE', EJECTED, '-inf', now)) do open_trial(url) end
make_plan_if_stale()
if call.beat then Seldom.hear_beat(unpack(call.beat)) end
write_ended_runs()
for _, number in ipairs(call.left or {}) do leave(holder(number)) end
if has_order and waiting > 0 then Ordered.hurry() end
if lines > 1 then Shared.know_due() end
serve_queue()
if call.runs_over then
  for _, over in ipairs(call.runs_over) do Reuse.end_run(unpack(over)) end
  Reuse.drop_answers()
end
if call.keyed_ms then Seldom.expect(call.keyed_ms) end
if call.orphans then Seldom.keep_all(call.orphans) end
if call.arrived then
  arrive(call.arrived)
  serve_queue()
  if may_hedge and call.wishes then Hedges.grant() end
end
if lines > 1 then Shared.write_turns() end
write_queue()
write_grants()
for _, wanted in ipairs(call.checks or {}) do check(unpack(wanted)) end
write_leases()
reply.waiting, reply.settles, reply.away = waiting, settles_at ~= nil, away
if away > 0 and rooms > 0 then Seldom.tell_of_unreached() end
if look_at then reply.look_in_ms = look_at - now end
return cjson.encode(reply)
