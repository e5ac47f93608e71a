-- Which workers have room for a job. ROOM is an index of them, so that the cost of a job does not grow with the fleet.
--
-- A member of ROOM is '<place> <cap> <weight> <url>'. Its score is the place in the ring; with least_loaded it is the
-- number of leases by weight, and the place is 0. Slow workers are behind all others: BEHIND is added to both. ROOM_OF
-- is the same for the other rooms (pools.lua). A call writes what it changes before it reads the index, and at its end.
--
-- Twin     LocalScheduler.has_room
-- Reads    PLAN, PLACES, BREAKER_OF
-- Writes   ROOM, ROOM_OF, LEASES_OF
-- @include context
-- @include remembered

local function room_key(room) return room == 0 and ROOM or ROOM_OF .. room end

-- A worker's places in a ring, each as its number and as a member of the room.
local function read_places(places, cap, weight, url)
  local list = {}
  for place in string.gmatch(places, '%d+') do
    list[#list + 1] = {score = tonumber(place), member = place .. ' ' .. cap .. ' ' .. weight .. ' ' .. url}
  end
  return list
end

-- Take in what PLAN has of a worker; false: it is not in the plan.
local function know_planned(url, text)
  local entry = false
  if text then
    local cap, weight, places = string.match(text, '^(%S+) (%S+) (%S+)$')
    entry = {cap = tonumber(cap), weight = tonumber(weight), places = read_places(places, cap, weight, url)}
  end
  remembered.entries[url] = entry
  return entry
end

-- Read the entries of workers at once of which this call will need most.
local function read_planned(urls)
  local unknown = {}
  for _, url in ipairs(urls) do
    if remembered.entries[url] == nil then unknown[#unknown + 1] = url end
  end
  local found = call_with(unknown, 'HMGET', PLAN)
  for place, url in ipairs(unknown) do know_planned(url, found[place]) end
end

-- What the plan has of a worker: cap, weight and places; false if it is not in the plan.
local function planned(url)
  local entry = remembered.entries[url]
  if entry == nil then return know_planned(url, redis.call('HGET', PLAN, url)) end
  return entry
end

-- The worker's places in the rooms besides room 0, by room.
local function places_apart(url)
  if not remembered.places[url] then
    local entry, its = planned(url), {}
    for room, places in string.gmatch(redis.call('HGET', PLACES, url) or '', '(%d+):(%S+)') do
      its[tonumber(room)] = read_places(places, entry.cap, entry.weight, url)
    end
    remembered.places[url] = its
  end
  return remembered.places[url]
end

-- What this call knows and writes of workers, by URL: `count`, the number of leases; `fresh`, the leases to be written,
-- each as its moment and its name; `old`, those to be dropped; `dropped`, how many this call has dropped; `lapses_at`,
-- the earliest moment at which LAPSE shall name the worker.
local workers = {}

local function worker_at(url)
  local worker = workers[url]
  if not worker then
    worker = {key = LEASES_OF .. url, count = false, fresh = false, old = false, dropped = 0, lapses_at = false}
    workers[url] = worker
  end
  return worker
end

local function write_leases_on(worker)
  if worker.old then
    local dropped = redis.call('ZREM', worker.key, unpack(worker.old))
    worker.old, worker.dropped = false, worker.dropped + dropped
    if worker.count then worker.count = worker.count - dropped end
  end
  if worker.fresh then
    redis.call('ZADD', worker.key, unpack(worker.fresh))
    worker.fresh = false
  end
end

local function count_leases(worker)
  if worker.old or not worker.count then
    write_leases_on(worker)
    worker.count = worker.count or redis.call('ZCARD', worker.key)
  end
  return worker.count
end

-- How many leases there are on the worker.
local function leases_on(url) return count_leases(worker_at(url)) end

-- Write a lease, which is new, with others on its worker.
local function add_lease(worker, name, moment)
  local words = worker.fresh
  if worker.count then worker.count = worker.count + 1 end
  if not words then
    worker.fresh = {moment, name}
    return
  end
  words[#words + 1], words[#words + 2] = moment, name
  if #words >= WORDS_A_COMMAND then write_leases_on(worker) end
end

-- Set a lease, or its moment anew.
local function set_lease(url, name, moment)
  local worker = worker_at(url)
  write_leases_on(worker)
  local added = redis.call('ZADD', worker.key, moment, name)
  if worker.count then worker.count = worker.count + added end
end

-- Drop a lease with others on its worker.
local function drop_soon(url, name)
  local worker = worker_at(url)
  if not worker.old then
    write_leases_on(worker)
    worker.old = {name}
    return
  end
  worker.old[#worker.old + 1] = name
  if #worker.old >= WORDS_A_COMMAND then write_leases_on(worker) end
end

-- Return whether there was the lease.
local function drop_lease(url, name)
  local worker = worker_at(url)
  write_leases_on(worker)
  local dropped = redis.call('ZREM', worker.key, name)
  if worker.count then worker.count = worker.count - dropped end
  return dropped == 1
end

-- What this call knows of each room's index: what is to be written (`writes`, by member: its score, or false), which
-- members have left it (`gone`), and which stretches of it have been read (selection.lua). Of the members read, `left`
-- are still in it.
local views = {}

local function view_of(room)
  local view = views[room]
  if not view then
    view = {key = room_key(room), writes = {}, gone = {}, stretches = {}, is_read = {}, left = 0}
    views[room] = view
  end
  return view
end

local function write_room(view)
  if not view.has_writes then return end
  local set, gone = {}, {}
  for member, score in pairs(view.writes) do
    if score then set[#set + 1], set[#set + 2] = score, member else gone[#gone + 1] = member end
  end
  call_with(set, 'ZADD', view.key)
  call_with(gone, 'ZREM', view.key)
  view.writes, view.has_writes, view.has_new = {}, false, false
end

local function write_rooms()
  for _, view in pairs(views) do write_room(view) end
end

-- Whether a room has a worker with room.
local function is_open(room)
  local view = view_of(room)
  if view.left > 0 then return true end
  if view.is_open == nil then
    write_room(view)
    view.is_open = redis.call('EXISTS', view.key) == 1
  end
  return view.is_open
end

local function set_places(view, url, weight, places, has_it)
  for _, place in ipairs(places) do
    local member = place.member
    if has_it then
      view.writes[member], view.gone[member] = is_by_load and leases_on(url) / weight + place.score or place.score, nil
      view.has_new, view.is_open = true, true
      if #view.stretches > 0 then view.stretches, view.is_read, view.left = {}, {}, 0 end
    else
      view.writes[member], view.gone[member], view.is_open = false, true, nil
      if view.is_read[member] then view.is_read[member], view.left = nil, view.left - 1 end
    end
  end
  view.has_writes = true
end

local function set_room(url, entry, has_it)
  set_places(view_of(0), url, entry.weight, entry.places, has_it)
  if rooms == 0 then return end
  for room, places in pairs(places_apart(url)) do set_places(view_of(room), url, entry.weight, places, has_it) end
end

local function has_slot(url, cap)
  if cap == TRIAL then return redis.call('HGET', BREAKER_OF .. url, 'trial') == 'open' end
  local rest = resting > 0 and Seldom.rest_of(url)
  if rest and leases_on(url) >= rest.limit then return false end
  local start = starting > 0 and Seldom.start_of(url)
  if start and leases_on(url) >= start.limit then return false end
  return cap == 0 or not settles_at and leases_on(url) < cap
end

-- Whether the worker may get a job of any line.
local function has_room(url, cap) return has_slot(url, cap) and not (has_memory and Shared.is_reserved(url)) end

-- Correct ROOM for a worker that may have room now, or may have none any more.
local function set_room_anew(url)
  local entry = planned(url)
  if entry then set_room(url, entry, has_room(url, entry.cap)) end
end

-- Correct ROOM for a worker of which only the number of leases has changed.
local function update_room(url)
  local entry = planned(url)
  if entry and (entry.cap ~= 0 or is_by_load or resting > 0) then set_room(url, entry, has_room(url, entry.cap)) end
end

-- Correct ROOM for a worker on which leases have ended. One that had a free slot before stays as it is.
local function update_room_after_ends(url)
  local worker, entry = worker_at(url), planned(url)
  write_leases_on(worker)
  if not entry or worker.dropped == 0 then return end
  local had_slot = entry.cap > 0 and count_leases(worker) + worker.dropped < entry.cap
  if not had_slot or is_by_load or resting > 0 or starting > 0 then update_room(url) end
end

local function is_in_room(url, room)
  local entry = planned(url)
  if room == 0 or not entry then return entry ~= false end
  return places_apart(url)[room] ~= nil
end
