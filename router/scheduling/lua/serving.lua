-- Which pending jobs get a lease: those whose turn it is, as long as a worker that would take them has room.
--
-- Twin     LocalScheduler._serve_queue
-- @include context
-- @include lines
-- @include queue
-- @include room
-- @include selection

-- `look` is one call's look at the queue: in each room the number of jobs passed over, the lines of which all jobs have
-- been passed over, or as many as may be, and the least memory for which no worker with room is large enough.
local function may_look_at(room, look)
  return (look.passed[room] or 0) < PASSED_OVER_IN_ROOM and is_open(room)
end

-- Return the tenant and the pool of the line whose turn it is.
local function whose_turn(look)
  if lines > 1 then return Shared.first_of_all(look) end
  local tenant, pool = sole_line()
  local its_pool = pool_named(pool)
  local may_it = its_pool and not look.is_done[tenant .. '/' .. pool] and may_look_at(its_pool.room, look)
  return may_it and may_go(tenant, pool) and tenant, pool
end

-- Give room to pending jobs, in turn. Those that can have none of the workers with room are passed over.
local function serve_queue()
  if has_memory then Shared.serve_reservations() end
  local look, skipped = {passed = {}, is_done = {}, too_large = {}}, {}
  if lines > 1 then Shared.forget_firsts() end
  while true do
    if waiting == 0 then return end
    local tenant, pool = whose_turn(look)
    if not tenant then return end
    local line, its_pool = tenant .. '/' .. pool, pool_named(pool)
    local room, offset = its_pool.room, skipped[line] or 0
    local job = offset < PASSED_OVER_AT_MOST and next_job(tenant, pool, offset, its_pool)
    local name, ticket = job and job.name, job and job.ticket
    if name and lines == 1 then read_next_asked(tenant, pool, offset) end
    local asked = name and asked_by(name)
    if not name then
      look.is_done[line] = true
      if lines > 1 then Shared.pass_over(tenant, pool, room) end
    elseif not asked or asked.deadline <= now or not is_alive(string.match(name, '^(.*):%d+$')) then
      take_out(name, tenant, pool, asked)
    else
      local is_too_large, url, cap = asked.memory >= (look.too_large[room] or math.huge), nil, nil
      if not is_too_large then url, cap = pick(its_pool, ticket, asked) end
      local reserved_one = not is_too_large and not url and unfit and Shared.most_free(unfit)
      if url then
        grant(name, ticket, url, cap, asked)
        take_out(name, tenant, pool, true)
      elseif reserved_one then
        Shared.reserve(reserved_one, line)
        set_room_anew(reserved_one)
        Shared.set_head(tenant, pool)
      else
        if unfit and not is_too_large and #asked.tried == 0 then look.too_large[room] = asked.memory end
        skipped[line], look.passed[room] = offset + 1, (look.passed[room] or 0) + 1
      end
    end
  end
end
