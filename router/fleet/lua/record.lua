-- Writes what the leading sidecar has seen of some workers, all of it or nothing.
--
-- With a worker that has left the fleet goes what operators have set for it, unless it has registered again meanwhile.
--
-- KEYS[1]  any key of the fleet: it names the Cluster slot
-- ARGV[1]  '<token> <name>' of the writer's term
-- ARGV[2]  the writer's time (ISO 8601)
-- ARGV[3]  '1' if the fleet or a worker's health has changed, so that the routers are told; else ''
-- ARGV[4]  a JSON list of [URL, [field, value, field, value …], events]; no fields: the worker has left the fleet; each
--          event is a list: kind, subject, text, by, more (JSON)
-- Reads    SIDECAR, REGISTERED_OF each worker that has left
-- Writes   WORKER_OF each worker, WORKERS, FLEET (written_at, changed_at), PLAN_HEAD (stale), CHANGES; for those that
--          have left also DRAIN, INTENT, REGISTERED
-- Returns  1, or 0 if the writer no longer leads: then nothing is written
-- @include journal

local opposite_of = {
  worker_joined = 'worker_left', worker_left = 'worker_joined',
  worker_healthy = 'worker_unhealthy', worker_unhealthy = 'worker_healthy',
}

-- Write the events of a worker, unless Redis says that they have been written: a call may be sent twice.
local function note_all(url, events)
  if #events == 0 then return end
  local is_member, held = redis.call('SISMEMBER', WORKERS, url) == 1, redis.pcall('HGET', WORKER_OF .. url, 'health')
  local stands = {worker_joined = is_member, worker_left = not is_member}
  if type(held) == 'string' then stands['worker_' .. held] = true end
  for _, event in ipairs(events) do
    local kind = event[1]
    if not stands[kind] then
      note(unpack(event))
      stands[kind], stands[opposite_of[kind]] = true, nil
    end
  end
end

if redis.call('GET', SIDECAR) ~= ARGV[1] then
  return 0
end
for _, entry in ipairs(cjson.decode(ARGV[4])) do
  local url, fields, events = unpack(entry)
  local key = WORKER_OF .. url
  note_all(url, events)
  if #fields > 0 then
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end -- redis-cli has made another type of it
    redis.call('HSET', key, unpack(fields))
    redis.call('SADD', WORKERS, url)
  else
    redis.call('DEL', key)
    redis.call('SREM', WORKERS, url)
    if redis.call('EXISTS', REGISTERED_OF .. url) == 0 then
      -- pcall: a key that redis-cli has made another type of must not keep the worker in the fleet.
      redis.pcall('SREM', DRAIN, url)
      redis.pcall('HDEL', INTENT, 'weight ' .. url, 'max_concurrency ' .. url)
      redis.pcall('SREM', REGISTERED, url)
    end
  end
end
redis.call('HSET', FLEET, 'written_at', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', FLEET, 'changed_at', ARGV[2])
  redis.call('HSET', PLAN_HEAD, 'stale', 1) -- the next call of the scheduler makes the plan anew
  redis.call('PUBLISH', CHANGES, ARGV[1])
end
return 1
