-- Does several commands in one atomic step.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  the commands as a JSON list, each a list of words
-- Returns  the answer to the last command
local answer
for _, words in ipairs(cjson.decode(ARGV[1])) do answer = redis.call(unpack(words)) end
return answer
