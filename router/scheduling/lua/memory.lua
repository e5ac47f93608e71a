-- The memory of workers: how much of it their jobs leave free, and which line waits for it.
--
-- A worker in MEMORY has so many MB; the others do not count it. A lease's name tells how much its job takes. If the
-- job whose turn it is finds a slot but not the memory, its line reserves a worker: that one has no room for other
-- lines, and the line has no turn, until its head fits there.
--
-- Twin     router/scheduling/local/memory.py, Memory
-- Reads    MEMORY, LEASES_OF
-- Writes   RESERVED (line by URL)
-- @lazy Shared
-- @include context
-- @include pools
-- @include remembered
-- @include room

local free_by_url = {}
local reserved, reservations

function Shared.memory_of(name) return tonumber(string.match(name, ' %S+ (%S+)$')) or 0 end

-- How much memory the worker has in all; any amount if it does not count it.
function Shared.memory_limit(url)
  local limits = remembered.memory
  limits[url] = limits[url] or tonumber(redis.call('HGET', MEMORY, url) or nil) or math.huge
  return limits[url]
end

function Shared.free_memory(url)
  if not free_by_url[url] then
    local free = Shared.memory_limit(url)
    if free < math.huge then
      write_leases_on(worker_at(url))
      for _, name in ipairs(redis.call('ZRANGE', LEASES_OF .. url, 0, -1)) do free = free - Shared.memory_of(name) end
    end
    free_by_url[url] = free
  end
  return free_by_url[url]
end

function Shared.is_large_enough(url, memory) return Shared.memory_limit(url) >= memory end

function Shared.fits(url, memory) return Shared.is_large_enough(url, memory) and Shared.free_memory(url) >= memory end

function Shared.load_reservations()
  if reserved then return end
  reserved, reservations = {}, {}
  if not has_memory then return end
  local held = redis.call('HGETALL', RESERVED)
  for index = 1, #held, 2 do reserved[held[index]], reservations[held[index + 1]] = held[index + 1], held[index] end
end

function Shared.is_reserved(url)
  Shared.load_reservations()
  return reserved[url] ~= nil
end

-- Whether the line waits for a worker that it has reserved.
function Shared.has_reserved(line)
  Shared.load_reservations()
  return reservations[line] ~= nil
end

function Shared.reserve(url, line)
  Shared.load_reservations()
  redis.call('HSET', RESERVED, url, line)
  reserved[url], reservations[line] = line, url
end

function Shared.release(url, line)
  redis.call('HDEL', RESERVED, url)
  reserved[url], reservations[line] = nil, nil
end

function Shared.line_of(url) return reserved[url] end

-- The URLs of the reserved workers, in order.
function Shared.reserved_urls()
  Shared.load_reservations()
  local urls = {}
  for url in pairs(reserved) do urls[#urls + 1] = url end
  table.sort(urls)
  return urls
end

function Shared.take_memory(url, memory)
  if free_by_url[url] then free_by_url[url] = free_by_url[url] - memory end
end

function Shared.forget_memory()
  redis.call('DEL', MEMORY, RESERVED)
  free_by_url, reserved, reservations = {}, {}, {}
end

-- The one of these workers with the most memory free; nil if there are none.
function Shared.most_free(urls)
  local best
  for _, url in ipairs(urls) do
    local is_better = not best or Shared.free_memory(url) > Shared.free_memory(best) or
      Shared.free_memory(url) == Shared.free_memory(best) and url < best
    if is_better then best = url end
  end
  return best
end

function Shared.is_among(url, urls)
  for _, one in ipairs(urls) do
    if one == url then return true end
  end
  return false
end

-- Whether a job has tried every worker of its pool that is large enough for it.
function Shared.has_tried_all(pool, tried, memory)
  for _, worker in ipairs(Shared.planned_workers()) do
    local url = worker.url
    local could_have = is_in_room(url, pool.room) and Shared.is_large_enough(url, memory)
    if could_have and not Shared.is_among(url, tried) then return false end
  end
  return true
end
