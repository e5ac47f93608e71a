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
-- Returns  Reply as msgpack (router/scheduling/messages.py)
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

-- Take in what became of a lease. The arguments are Ended's fields.
local function end_attempt(url, number, blame, is_over, job, cause, ms, tenant, memory)
  tenant = tenant_named(tenant)
  local name = lease_name(holder(number), tenant, memory)
  if is_over then
    drop_soon(url, name)
    end_run(tenant, name)
  end
  if blame == 'busy' or blame == 'away' then
    if Seldom.turn_away(url, blame == 'away', ms) then set_room_anew(url) end
  elseif resting > 0 and (blame == 'ok' or blame == 'error' or blame == 'doubt') then
    if Seldom.hear_of_answer(url) then set_room_anew(url) end
  end
  judge(url, name, blame, job, cause, ms)
  if blame == 'died' then Seldom.hear_of_death(job, url, name, ms) end
  if blame == 'ok' and job ~= '' then Seldom.exonerate(job) end
end

-- Note when a job has ended well. The sidecar reads it: a worker that ends jobs well is not dead, even if it is too busy
-- to answer a health check. Moments that are close together are one.
local function note_finished(finished)
  local words = {}
  for url in pairs(finished) do
    local before = remembered.finished[url]
    if not before or now < before or now >= before + FINISHED_APART_MS then
      words[#words + 1], words[#words + 2] = now, url
      remembered.finished[url] = now
    end
  end
  call_with(words, 'ZADD', FINISHED)
end

-- Take in what became of leases: `done` has those of usual jobs that ended well, each as the URL, the number and the
-- tenant; `ended` has all others.
local function end_attempts(done, ended)
  local urls, is_known, finished = {}, {}, {}
  for place = 1, #done, 3 do
    local url = done[place]
    if not is_known[url] then urls[#urls + 1], is_known[url], finished[url] = url, true, true end
  end
  for _, attempt in ipairs(ended) do
    local url = attempt[1]
    if not is_known[url] then urls[#urls + 1], is_known[url] = url, true end
    if attempt[3] == 'ok' then finished[url] = true end
  end
  read_planned(urls)
  look_for_breakers(urls)
  local tells = has_breakers or resting > 0
  for place = 1, #done, 3 do
    local url, number, tenant = done[place], done[place + 1], done[place + 2]
    if tells then
      end_attempt(url, number, 'ok', true, '', '', 0, tenant, 0)
    else
      tenant = tenant_named(tenant)
      local name = lease_name(holder(number), tenant, 0)
      drop_soon(url, name)
      end_run(tenant, name)
    end
  end
  for _, attempt in ipairs(ended) do end_attempt(unpack(attempt)) end
  for _, url in ipairs(urls) do update_room_after_ends(url) end
  note_finished(finished)
end

local fleet = redis.call('HMGET', FLEET, 'written_at', 'schema')
if not fleet[1] then return cmsgpack.pack({has_fleet = false}) end
if (tonumber(fleet[2]) or 1) > SCHEMA_VERSION then return cmsgpack.pack({newer_schema = tonumber(fleet[2])}) end
load_plan()
count_lines()
make_plan_if_stale()
if has_turns ~= (lines > 1) then Shared.set_all_turns() end -- a router of the last release has filled or emptied QUEUE
if call.done or call.ended then end_attempts(call.done or {}, call.ended or {}) end
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
if call.came or call.arrived then
  arrive(call.arrived or usual_arrivals(call.came))
  serve_queue()
  if may_hedge and call.wishes then Hedges.grant() end
end
if lines > 1 then Shared.write_turns() end
write_queue()
write_rounds()
write_grants()
for _, wanted in ipairs(call.checks or {}) do check(unpack(wanted)) end
write_leases()
write_rooms()
reply.waiting, reply.settles, reply.away = waiting, settles_at ~= nil, away
if away > 0 and rooms > 0 then Seldom.tell_of_unreached() end
if look_at then reply.look_in_ms = look_at - now end
return cmsgpack.pack(reply)
