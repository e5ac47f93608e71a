-- Sends notes to all other router processes that read notes. Those of release 0.2 do not, and say nothing of it.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the process that sends
-- ARGV[2]  the notes as a JSON list of texts
-- Reads    PROCESSES, PROCESS_OF
-- Writes   GRANTS_OF
-- Returns  nothing
local notes = cjson.decode(ARGV[2])
for _, process in ipairs(redis.call('ZRANGE', PROCESSES, 0, -1)) do
  if process ~= ARGV[1] and redis.call('HGET', PROCESS_OF .. process, 'notes') == '1' then
    redis.call('RPUSH', GRANTS_OF .. process, unpack(notes))
    redis.call('PEXPIRE', GRANTS_OF .. process, TTL_MS)
  end
end
