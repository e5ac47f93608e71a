-- Which jobs get the workers that their lines have reserved, because they wait for memory.
--
-- Twin     LocalScheduler._serve_reservations
-- @lazy Shared
-- @include context
-- @include lines
-- @include queue
-- @include room
-- @include selection

-- Return the name and the ticket of the first job of a line that can still have a lease, and what it asks for. Those
-- before it leave the line.
function Shared.living_head(tenant, pool)
  while true do
    local head = next_job(tenant, pool, 0)
    if not head then return end
    local asked = asked_by(head.name)
    if asked and asked.deadline > now and is_alive(string.match(head.name, '^(.*):%d+$')) then
      return head.name, head.ticket, asked
    end
    take_out(head.name, tenant, pool, asked)
  end
end

-- Let the head of each line that has reserved a worker go there if it fits now. The reservation is over, too, if it
-- cannot fit there any more.
function Shared.serve_reservations()
  for _, url in ipairs(Shared.reserved_urls()) do
    local line = Shared.line_of(url)
    local tenant, pool = string.match(line, '^([^/]*)/(.*)$')
    local name, ticket, asked = Shared.living_head(tenant, pool)
    local cap = planned(url).cap
    local is_over = not name or is_at_most(tenant) or resting > 0 and Seldom.rest_of(url) or
      not Shared.is_large_enough(url, asked.memory) or not is_in_room(url, pool_named(pool).room) or
      Shared.is_among(url, asked.tried)
    local may_have_it = not is_over and has_slot(url, cap) and Shared.fits(url, asked.memory)
    if is_over or may_have_it then
      Shared.release(url, line)
      if may_have_it then
        grant(name, ticket, url, cap, asked)
        take_out(name, tenant, pool, true)
      end
      set_room_anew(url)
      Shared.set_head(tenant, pool)
    end
  end
end
