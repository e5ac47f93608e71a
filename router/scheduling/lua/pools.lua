-- Pools: which workers can run a kind of job. Pools of the same workers share a room: a ring and an index of their own.
--
-- Room 0 has all workers, as PLAN has them. A field of POOLS is '<room> <ring> <workers> <print of the workers>
-- <behind>', by the pool's name: `behind` is the length of the slow workers' ring; one of PLACES is the worker's '<room>:<places in its ring> …', by URL.
--
-- Twin     router/scheduling/local/pools.py, Pools
-- Reads    WORKER_OF, PLAN
-- Writes   POOLS, PLACES, PLAN_HEAD (rooms, how many there are besides room 0)
-- @lazy Shared
-- @include context
-- @include room

local abilities = {}

function Shared.names_in(text)
  local names = {}
  for name in string.gmatch(text or '', '[^,]+') do names[name], names.is_any = true, true end
  return names
end

function Shared.abilities_of(url)
  if not abilities[url] then
    local held = redis.pcall('HMGET', WORKER_OF .. url, 'labels', 'languages')
    abilities[url] = {labels = Shared.names_in(held[1] or nil), languages = Shared.names_in(held[2] or nil)}
  end
  return abilities[url]
end

function Shared.serves(pool, url)
  local wanted, language = string.match(pool, '^([^;]*);?(.*)$')
  local its = Shared.abilities_of(url)
  for label in string.gmatch(wanted, '[^,]+') do
    if not its.labels[label] then return false end
  end
  return language == '' or not its.languages.is_any or its.languages[language] or false
end

-- The workers that may get jobs, by URL.
function Shared.planned_workers()
  local held, workers = redis.call('HGETALL', PLAN), {}
  for index = 1, #held, 2 do
    local cap, weight, place = string.match(held[index + 1], '^(%S+) (%S+) (%d+)')
    workers[#workers + 1] = {
      url = held[index], cap = tonumber(cap), weight = tonumber(weight), is_slow = tonumber(place) >= BEHIND,
    }
  end
  table.sort(workers, function(one, other) return one.url < other.url end)
  return workers
end

function Shared.read_pool(text)
  local room, ring, workers, print, its_behind = string.match(text, '^(%d+) (%d+) (%d+) (%S*) (%d+)$')
  return {
    room = tonumber(room), ring = tonumber(ring), workers = tonumber(workers), print = print,
    behind = tonumber(its_behind),
  }
end

-- Give these workers a room of their own; return its number and the lengths of its rings.
function Shared.lay_room(members)
  rooms = rooms + 1
  remember_plan(remembered.made)
  redis.call('HSET', PLAN_HEAD, 'rooms', rooms)
  local ring, its_behind = Seldom.lay_rings(members)
  for _, member in ipairs(members) do
    local places = rooms .. ':' .. table.concat(member.places, ',')
    local others_of_it = redis.call('HGET', PLACES, member.url)
    redis.call('HSET', PLACES, member.url, others_of_it and others_of_it .. ' ' .. places or places)
    set_room_anew(member.url)
  end
  return rooms, ring, its_behind
end

-- Find the pool's workers among `workers`, those that may get jobs.
function Shared.open_pool(pool, workers)
  local members, urls = {}, {}
  for _, worker in ipairs(workers) do
    if Shared.serves(pool, worker.url) then
      members[#members + 1] = {url = worker.url, weight = worker.weight, is_slow = worker.is_slow, places = {}}
      urls[#urls + 1] = worker.url
    end
  end
  local print = redis.sha1hex(table.concat(urls, ' '))
  local room, ring, its_behind
  if #members == #workers then room, ring, its_behind = 0, ring_length, behind end
  for _, text in ipairs(room and {} or redis.call('HVALS', POOLS)) do
    local other = Shared.read_pool(text)
    if other.print == print then room, ring, its_behind = other.room, other.ring, other.behind end
  end
  if not room then room, ring, its_behind = Shared.lay_room(members) end
  local text = string.format('%.0f %.0f %.0f %s %.0f', room, ring, #members, print, its_behind)
  redis.call('HSET', POOLS, pool, text)
  pools_open = redis.call('HLEN', POOLS)
  redis.call('HSET', PLAN_HEAD, 'pools', pools_open)
  remembered.pools[pool] = Shared.read_pool(text)
end

-- Return the room, the length of the ring, the number of workers and their print of a pool; nothing if it is not open.
function Shared.read_named(pool)
  if not remembered.pools[pool] then
    local text = redis.call('HGET', POOLS, pool)
    remembered.pools[pool] = text and Shared.read_pool(text) or nil
  end
  return remembered.pools[pool]
end

-- The prints of the workers of all pools that have been opened or read since the plan was made.
function Shared.known_prints()
  local is_known = {}
  for _, pool in pairs(remembered.pools) do is_known[pool.print] = true end
  return is_known
end
