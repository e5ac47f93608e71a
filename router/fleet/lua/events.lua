-- Writes what has happened into the journal. An event that was told a moment ago is not told again.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  a JSON list of [kind, subject, text, by, more (JSON), apart (ms)]: with apart, the event is left out if one of
--          its kind and subject was written within that time
-- Writes   EVENTS, EVENTS_COUNTS
-- Returns  how many have been written
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function was_told(kind, subject, apart)
  for _, entry in ipairs(redis.call('XREVRANGE', EVENTS, '+', math.max(0, now - apart), 'COUNT', LOOKED_AT)) do
    local fields = entry[2]
    local held = {}
    for place = 1, #fields, 2 do held[fields[place]] = fields[place + 1] end
    if held.kind == kind and held.subject == subject then return true end
  end
  return false
end

local written = 0
for _, event in ipairs(cjson.decode(ARGV[1])) do
  local kind, subject, text, by, more, apart = unpack(event)
  if apart == 0 or not was_told(kind, subject, apart) then
    redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
      'kind', kind, 'subject', subject, 'text', text, 'by', by, 'more', more)
    redis.call('HINCRBY', EVENTS_COUNTS, kind, 1)
    written = written + 1
  end
end
return written
