-- Which pending jobs get a lease: those whose turn it is, as long as a worker that would take them has room.
--
-- Twin     LocalScheduler._serve_queue
-- @include context
-- @include lines
-- @include queue
-- @include room
-- @include selection

-- `look` is one call's look at the queue: in each room the number of jobs passed over, and the lines of which all jobs
-- have been passed over, `done` of them.
local function may_look_at(room, look)
  return (look.passed[room] or 0) < PASSED_OVER_AT_MOST and is_open(room)
end

-- Return the tenant and the pool of the line whose turn it is and, if several wait, its head's ticket.
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
  local look, skipped = {passed = {}, is_done = {}, done = {}}, {}
  while true do
    if waiting == 0 then return end
    if lines > 1 then Shared.set_changed_turns(false) end
    local tenant, pool, head_ticket = whose_turn(look)
    if not tenant then return end
    local line, its_pool = tenant .. '/' .. pool, pool_named(pool)
    local room, offset = its_pool.room, skipped[line] or 0
    local name, ticket, its_ticket = job_at(tenant, pool, offset)
    local asked = name and asked_by(name)
    if head_ticket and offset == 0 and head_ticket ~= its_ticket then
      Shared.set_turn(tenant, pool, head_ticket) -- a router of the last release has taken the head
    elseif not name then
      look.is_done[line], look.done[room] = true, (look.done[room] or 0) + 1
    elseif not asked or asked.deadline <= now or not is_alive(string.match(name, '^(.*):%d+$')) then
      take_out(name, ticket, tenant, pool)
    else
      local url, cap = pick(its_pool, ticket, asked)
      local reserved_one = unfit and not url and Shared.most_free(unfit, asked.memory)
      if url then
        grant(name, ticket, url, cap, asked)
        take_out(name, ticket, tenant, pool)
      elseif reserved_one then
        Shared.reserve(reserved_one, line)
        set_room_anew(reserved_one)
        Shared.set_turn(tenant, pool)
      else
        skipped[line], look.passed[room] = offset + 1, (look.passed[room] or 0) + 1
      end
    end
  end
end
