-- Send a list of commands in one atomic step.  KEYS: one of the fleet (it names the Cluster slot).  ARGV: JSON list of
-- commands, each a list of words. Returns the last one's answer.
local answer
for _, words in ipairs(cjson.decode(ARGV[1])) do answer = redis.call(unpack(words)) end
return answer
