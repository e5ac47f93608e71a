-- What has happened, for people: the journal of the fleet.
--
-- Writes   EVENTS, EVENTS_COUNTS

-- Write an event (router/fleet/journal/model.py); `more` is JSON. A key that redis-cli has made another type of must not
-- harm the caller: without an event, all else goes on. Return its id, or Redis' error.
local function note(kind, subject, text, by, more)
  local answer = redis.pcall('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'subject', subject,
    'text', text, 'by', by, 'more', more)
  if type(answer) == 'string' then redis.pcall('HINCRBY', EVENTS_COUNTS, kind, 1) end
  return answer
end
