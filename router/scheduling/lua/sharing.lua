-- What jobs leave behind whose clients have gone, and which arriving jobs get it: a place in the line, or a run.
--
-- A member of ORPHANS_OF a key is '<kept until> <ticket>' for a place, and '<kept until> <ticket> <process>:<number>' for
-- the run under that lease. The next job that arrives with the key gets the one with the lowest ticket. Jobs have keys
-- only while replies ask for them, so that there is nothing to look up while nothing is left behind.
--
-- Twin     router/scheduling/local/sharing.py, Orphans
-- Writes   ORPHANS_OF, PLAN_HEAD (keyed_until)
-- @lazy Seldom
-- @include context
-- @include queue

-- Ask for keys for so long.
function Seldom.expect(ms)
  if ms <= (reply.keyed_ms or 0) then return end
  reply.keyed_ms = ms
  redis.call('HSET', PLAN_HEAD, 'keyed_until', string.format('%.0f', now + ms))
end

-- The arguments are Orphan's fields (router/scheduling/messages.py).
function Seldom.keep(key, ms, ticket, number, process)
  local orphans, owner = ORPHANS_OF .. key, ''
  if number > 0 then owner = string.format(' %s:%.0f', process ~= '' and process or call.process, number) end
  if ms == 0 then
    for _, orphan in ipairs(redis.call('ZRANGE', orphans, 0, -1)) do
      if string.match(orphan, '^%d+ %d+(.*)$') == owner then redis.call('ZREM', orphans, orphan) end
    end
    return
  end
  redis.call('ZADD', orphans, ticket, string.format('%.0f %.0f', now + ms, ticket) .. owner)
  if redis.call('PTTL', orphans) < ms + PROCESS_TTL_MS then redis.call('PEXPIRE', orphans, ms + PROCESS_TTL_MS) end
  Seldom.expect(ms)
end

function Seldom.keep_all(left)
  for _, orphan in ipairs(left) do Seldom.keep(unpack(orphan)) end
end

-- Give an arriving job what another one of its key has left behind. Return under which ticket it waits, and whether it
-- has got a run.
function Seldom.adopt(number, key, ticket)
  while true do
    local orphan = redis.call('ZPOPMIN', ORPHANS_OF .. key)[1]
    if not orphan then return ticket, false end
    local ends, its, process, lease_of_it = string.match(orphan, '^(%d+) (%d+) ?(.-):?(%d*)$')
    its = tonumber(its)
    if tonumber(ends) > now and process == '' then
      tell('adopted', {number, its})
      return its, false
    elseif tonumber(ends) > now and is_alive(process) then
      tell('adopted', {number, its, process, tonumber(lease_of_it)})
      return ticket, true
    end
  end
end
