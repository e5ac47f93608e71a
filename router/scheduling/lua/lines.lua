-- Lines: the pending jobs of one tenant in one pool, '<tenant>/<pool>'. QUEUE is the line of the tenant `default` in
-- the pool of all workers. As long as one line waits alone, nothing of turns.lua is needed.
--
-- A call reads the first jobs of a line once, works on them in its own memory, and writes the line once, at its end.
--
-- Reads    QUEUE, QUEUE_OF, LINES, WAITING
-- @include context

local function is_plain(tenant, pool) return tenant == DEFAULT and pool == '' end

local function queue_of(tenant, pool)
  return is_plain(tenant, pool) and QUEUE or QUEUE_OF .. pool .. '/' .. tenant
end

-- The lines that this call has looked at, each with its jobs as far as they have been read, and with the words to be
-- written: of new jobs the tickets and names, of those that wait no longer the names.
local lines_at_hand = {}

local function at_hand(tenant, pool)
  local name = tenant .. '/' .. pool
  local line = lines_at_hand[name]
  if not line then
    line = {key = queue_of(tenant, pool), jobs = {}, is_whole = false, new = {}, gone = {}}
    lines_at_hand[name] = line
  end
  return line
end

local function write_line(line)
  if line.new[1] then call_with(line.new, 'ZADD', line.key) end
  if line.gone[1] then call_with(line.gone, 'ZREM', line.key) end
  line.new, line.gone = {}, {}
end

local function write_lines()
  for _, line in pairs(lines_at_hand) do write_line(line) end
end

-- The pending job at a place of the line, 1 is its head; nil if there are fewer.
local function job_at(line, place)
  while not line.jobs[place] and not line.is_whole do
    write_line(line)
    local count = lines == 1 and jobs_in_call + 1 or 2
    local held = redis.call('ZRANGE', line.key, #line.jobs, #line.jobs + count - 1, 'WITHSCORES')
    for index = 1, #held, 2 do line.jobs[#line.jobs + 1] = {name = held[index], ticket = tonumber(held[index + 1])} end
    line.is_whole = #held < 2 * count
  end
  return line.jobs[place]
end

local function is_before(job, other)
  return job.ticket < other.ticket or job.ticket == other.ticket and job.name < other.name
end

-- Let a job stand in the line. One that comes after those that have been read is read later.
local function add_to_line(line, name, ticket)
  line.new[#line.new + 1], line.new[#line.new + 2] = ticket, name
  local job, place = {name = name, ticket = ticket}, #line.jobs
  while place > 0 and is_before(job, line.jobs[place]) do place = place - 1 end
  if place < #line.jobs or line.is_whole then table.insert(line.jobs, place + 1, job) end
end

local function drop_from_line(line, name)
  line.gone[#line.gone + 1] = name
  for place, job in ipairs(line.jobs) do
    if job.name == name then
      table.remove(line.jobs, place)
      return
    end
  end
end

-- The job of a line whose turn is next after `offset` others, in its pool's free room or, without that, in any.
local function next_job(tenant, pool, offset, its_pool)
  if has_order and Ordered.goes_by_size(tenant) then
    return Ordered.job_at(tenant, pool, offset, its_pool and Ordered.only_slow_have_room(its_pool))
  end
  return job_at(at_hand(tenant, pool), offset + 1)
end

-- Count the pending jobs, and their lines.
local function count_lines()
  waiting = redis.call('HLEN', WAITING)
  if waiting == 0 then return end
  local plain = redis.call('ZCARD', QUEUE)
  others = math.max(0, waiting - plain)
  lines = (plain > 0 and 1 or 0) + (others > 0 and redis.call('ZCARD', LINES) or 0)
end

-- The tenant and the pool of the only line that waits.
local sole
local function sole_line()
  if others == 0 then return DEFAULT, '' end
  if not sole then sole = redis.call('ZRANGE', LINES, 0, 0)[1] end
  return string.match(sole, '^([^/]*)/(.*)$')
end

local function is_sole(tenant, pool)
  local its_tenant, its_pool = sole_line()
  return tenant == its_tenant and pool == its_pool
end

-- Whether as many jobs of the tenant run as may.
local function is_at_most(tenant) return has_rules and Shared.runs_most(tenant) end

-- Whether a line of pending jobs takes part in the turns.
local function may_go(tenant, pool)
  return not is_at_most(tenant) and not (has_memory and Shared.has_reserved(tenant .. '/' .. pool))
end
