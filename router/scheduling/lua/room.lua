-- Which workers have room for a job. ROOM is an index of them, so that the cost of a job does not grow with the fleet.
--
-- A member of ROOM is '<place> <cap> <weight> <url>'. Its score is the place in the ring; with least_loaded it is the
-- number of leases by weight, and the place is 0. ROOM_OF is the same for the other rooms (pools.lua).
--
-- Twin     LocalScheduler.has_room
-- Reads    PLAN, PLACES, LEASES_OF, BREAKER_OF
-- Writes   ROOM, ROOM_OF
-- @include context

local function room_key(room) return room == 0 and ROOM or ROOM_OF .. room end

-- The entries of PLAN and the numbers of leases that this call has read or counted, by URL.
local entries, lease_counts = {}, {}

local function forget_plan() entries = {} end

-- Read the entries of workers at once of which this call will need most.
local function read_planned(urls)
  local _, found = call_with(urls, 'HMGET', PLAN)
  for place, url in ipairs(urls) do entries[url] = found[place] end
end

local function planned(url)
  if entries[url] == nil then entries[url] = redis.call('HGET', PLAN, url) end
  if entries[url] then
    local cap, weight, places = string.match(entries[url], '^(%S+) (%S+) (%S+)$')
    return tonumber(cap), tonumber(weight), places
  end
end

-- How many leases there are on the worker.
local function leases_on(url)
  if not lease_counts[url] then lease_counts[url] = redis.call('ZCARD', LEASES_OF .. url) end
  return lease_counts[url]
end

-- Set a lease, or its moment anew.
local function set_lease(url, name, moment)
  local added = redis.call('ZADD', LEASES_OF .. url, moment, name)
  if lease_counts[url] then lease_counts[url] = lease_counts[url] + added end
end

-- Return whether there was the lease.
local function drop_lease(url, name)
  local dropped = redis.call('ZREM', LEASES_OF .. url, name)
  if lease_counts[url] then lease_counts[url] = lease_counts[url] - dropped end
  return dropped == 1
end

-- Which rooms have a worker with room, as far as this call has looked.
local open_rooms = {}

local function is_open(room)
  if open_rooms[room] == nil then open_rooms[room] = redis.call('EXISTS', room_key(room)) == 1 end
  return open_rooms[room]
end

local function set_places(key, url, cap, weight, places, has_it)
  for place in string.gmatch(places, '%d+') do
    local member = place .. ' ' .. cap .. ' ' .. weight .. ' ' .. url
    if not has_it then
      redis.call('ZREM', key, member)
    elseif is_by_load then
      redis.call('ZADD', key, leases_on(url) / weight, member)
    else
      redis.call('ZADD', key, place, member)
    end
  end
end

local function set_room(url, cap, weight, places, has_it)
  set_places(ROOM, url, cap, weight, places, has_it)
  open_rooms[0] = nil
  if rooms == 0 then return end
  for room, its in string.gmatch(redis.call('HGET', PLACES, url) or '', '(%d+):(%S+)') do
    set_places(ROOM_OF .. room, url, cap, weight, its, has_it)
    open_rooms[tonumber(room)] = nil
  end
end

local function has_slot(url, cap)
  if cap == TRIAL then return redis.call('HGET', BREAKER_OF .. url, 'trial') == 'open' end
  local rest = resting > 0 and Seldom.rest_of(url)
  if rest and leases_on(url) >= rest.limit then return false end
  return cap == 0 or not settles_at and leases_on(url) < cap
end

-- Whether the worker may get a job of any line.
local function has_room(url, cap) return has_slot(url, cap) and not (has_memory and Shared.is_reserved(url)) end

-- Correct ROOM for a worker that may have room now, or may have none any more.
local function set_room_anew(url)
  local cap, weight, places = planned(url)
  if cap then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- Correct ROOM for a worker of which only the number of leases has changed.
local function update_room(url)
  local cap, weight, places = planned(url)
  if cap and (cap ~= 0 or is_by_load or resting > 0) then set_room(url, cap, weight, places, has_room(url, cap)) end
end

-- Correct ROOM for a worker on which a lease has ended. One that had a free slot before stays as it is.
local function update_room_after_end(url)
  local cap = planned(url)
  local had_slot = cap and cap > 0 and leases_on(url) + 1 < cap
  if not had_slot or is_by_load or resting > 0 then update_room(url) end
end

local function is_in_room(url, room)
  if room == 0 then return redis.call('HEXISTS', PLAN, url) == 1 end
  return string.find(' ' .. (redis.call('HGET', PLACES, url) or ''), ' ' .. room .. ':', 1, true) ~= nil
end
