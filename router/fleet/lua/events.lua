-- Writes what has happened into the journal. An event that was told a moment ago is not told again.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  a JSON list of [kind, subject, text, by, more (JSON), apart (ms)]: with apart, the event is left out if one of
--          its kind and subject was written within that time
-- Reads    EVENTS
-- Returns  nothing, or the error with which Redis has refused an event: those after it are not written
-- @include journal
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function was_told(kind, subject, apart)
  local since = string.format('%.0f', math.max(0, now - apart))
  for _, entry in ipairs(redis.call('XREVRANGE', EVENTS, '+', since, 'COUNT', LOOKED_AT)) do
    local held = {}
    for place = 1, #entry[2], 2 do held[entry[2][place]] = entry[2][place + 1] end
    if held.kind == kind and held.subject == subject then return true end
  end
  return false
end

for _, event in ipairs(cjson.decode(ARGV[1])) do
  local kind, subject, text, by, more, apart = unpack(event)
  if apart == 0 or not was_told(kind, subject, apart) then
    local answer = note(kind, subject, text, by, more)
    if type(answer) == 'table' then return answer end -- so that the caller tries again
  end
end
