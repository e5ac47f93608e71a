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

local function planned(url)
  local entry = redis.call('HGET', PLAN, url)
  if entry then
    local cap, weight, places = string.match(entry, '^(%S+) (%S+) (%S+)$')
    return tonumber(cap), tonumber(weight), places
  end
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
      redis.call('ZADD', key, redis.call('ZCARD', LEASES_OF .. url) / weight, member)
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
  if rest and redis.call('ZCARD', LEASES_OF .. url) >= rest.limit then return false end
  return cap == 0 or not settles_at and redis.call('ZCARD', LEASES_OF .. url) < cap
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

local function is_in_room(url, room)
  if room == 0 then return redis.call('HEXISTS', PLAN, url) == 1 end
  return string.find(' ' .. (redis.call('HGET', PLACES, url) or ''), ' ' .. room .. ':', 1, true) ~= nil
end
