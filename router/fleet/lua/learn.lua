-- Adds what one router process has learned of the sizes of jobs and of the speeds of workers to what the fleet knows.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  Lessons as JSON (router/fleet/sizes.py)
-- ARGV[2]  how many keys are kept at most
-- ARGV[3]  how long keys stay without use (s)
-- Writes   SIZES, SIZES_USED, SPEEDS
-- Returns  of each size in ARGV[1], in their order, `mean count` as it is known now
local lessons, most, stays = cjson.decode(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Anything may have been written with redis-cli: text that is not `count` numbers counts as absent.
local function numbers(text, count)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do
    local number = tonumber(word)
    if not number or number ~= number or math.abs(number) >= 1e15 then return nil end
    found[#found + 1] = number
  end
  return #found == count and found or nil
end

-- The same as `merged` in router/policy/sizes.py.
local function learned(held, more, times)
  local mean, count = unpack(numbers(held, 2) or {0, 0})
  if mean <= 0 or count < 1 then mean, count = 0, 0 end
  return string.format('%.1f %d', mean + (more - mean) * times / (count + times), math.min(count + times, MAX_WEIGHT))
end

-- Keys that were not used for long, and the oldest beyond `most`: a call removes more of them than it can add.
local function drop(keys)
  if #keys > 0 then
    redis.call('HDEL', SIZES, unpack(keys))
    redis.call('ZREM', SIZES_USED, unpack(keys))
  end
end

local means = {}
if #lessons.sizes > 0 then
  local keys, fields, scores = {}, {}, {}
  for place, size in ipairs(lessons.sizes) do keys[place] = size[1] end
  local held = redis.call('HMGET', SIZES, unpack(keys))
  for place, size in ipairs(lessons.sizes) do
    means[place] = learned(held[place], size[2], size[3])
    fields[2 * place - 1], fields[2 * place] = size[1], means[place]
    scores[2 * place - 1], scores[2 * place] = now, size[1]
  end
  redis.call('HSET', SIZES, unpack(fields))
  redis.call('ZADD', SIZES_USED, unpack(scores))
  drop(redis.call('ZRANGEBYSCORE', SIZES_USED, '-inf', now - stays * 1000, 'LIMIT', 0, 2 * ENTRIES_A_CALL))
  local beyond = redis.call('ZCARD', SIZES_USED) - most
  if beyond > 0 then drop(redis.call('ZRANGE', SIZES_USED, 0, math.min(beyond, 2 * ENTRIES_A_CALL) - 1)) end
  redis.call('EXPIRE', SIZES, stays)
  redis.call('EXPIRE', SIZES_USED, stays)
end

-- Sums fade, so that a worker that was repaired is soon known as such.
if #lessons.speeds > 0 then
  local urls, fields = {}, {}
  for place, more in ipairs(lessons.speeds) do urls[place] = more[1] end
  local held = redis.call('HMGET', SPEEDS, unpack(urls))
  for place, more in ipairs(lessons.speeds) do
    local known = numbers(held[place], 4) or {0, 0, 0, now}
    local left = math.pow(0.5, math.max(0, now - known[4]) / HALF_LIFE_MS)
    local total, squares, count = known[1] * left + more[2], known[2] * left + more[3], known[3] * left + more[4]
    fields[2 * place - 1] = more[1]
    fields[2 * place] = string.format('%.6g %.6g %.6g %d', total, squares, count, now)
  end
  redis.call('HSET', SPEEDS, unpack(fields))
  redis.call('EXPIRE', SPEEDS, stays)
end
return means
