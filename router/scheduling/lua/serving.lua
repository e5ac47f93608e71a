-- Which pending jobs get a lease: those whose turn it is, as long as a worker that would take them has room.
--
-- Twin     LocalScheduler._serve_queue
-- @include context
-- @include lines
-- @include queue
-- @include room
-- @include selection

-- `look` is one call's look at the queue: in each room the number of jobs passed over, and the lines of which all jobs
-- have been passed over.
local function may_look_at(room, look)
  return (look.passed[room] or 0) < PASSED_OVER_AT_MOST and is_open(room)
end

-- Return the tenant and the pool of the line whose turn it is.
local function whose_turn(look)
  if lines > 1 then return Shared.first_of_all(look) end
  local tenant, pool = sole_line()
  local its_pool = pool_named(pool)
  local may_it = its_pool and not look.is_done[tenant .. '/' .. pool] and may_look_at(its_pool.room, look)
  return may_it and may_go(tenant, pool) and tenant, pool
end

-- Give room to pending jobs, in turn. Those that have tried all workers with room are passed over.
local function serve_queue()
  if has_memory then Shared.serve_reservations() end
  local look, skipped = {passed = {}, is_done = {}}, {}
  if lines > 1 then Shared.forget_firsts() end
  while true do
    if waiting == 0 then return end
    local tenant, pool = whose_turn(look)
    if not tenant then return end
    local line, its_pool = tenant .. '/' .. pool, pool_named(pool)
    local room, offset = its_pool.room, skipped[line] or 0
    local job = next_job(tenant, pool, offset, its_pool)
    local name, ticket = job and job.name, job and job.ticket
    if name and lines == 1 then read_next_asked(tenant, pool, offset) end
    local asked = name and asked_by(name)
    if not name then
      look.is_done[line] = true
      if lines > 1 then Shared.pass_over(tenant, pool, room) end
    elseif not asked or asked.deadline <= now or not is_alive(string.match(name, '^(.*):%d+$')) then
      take_out(name, tenant, pool, asked)
    else
      local url, cap = pick(its_pool, ticket, asked)
      local reserved_one = unfit and not url and Shared.most_free(unfit, asked.memory)
      if url then
        grant(name, ticket, url, cap, asked)
        take_out(name, tenant, pool, true)
      elseif reserved_one then
        Shared.reserve(reserved_one, line)
        set_room_anew(reserved_one)
        Shared.set_head(tenant, pool)
      else
        skipped[line], look.passed[room] = offset + 1, (look.passed[room] or 0) + 1
      end
    end
  end
end
