-- Second runs of jobs that run already: each gets a lease now or never, and only while no other job waits for the room.
--
-- Twin     router/scheduling/local/order.py, second_runs; LocalScheduler._hedge
-- @lazy Hedges
-- @include arrivals
-- @include budget
-- @include context
-- @include queue
-- @include selection

local put_aside = {}

-- Return the arrivals that are no second runs; `grant` will look at the others, after all else.
function Hedges.put_aside(arrivals)
  local others = {}
  for _, arrival in ipairs(arrivals) do
    local wish = wish_of(arrival[1])
    local list = wish and wish[5] and put_aside or others
    list[#list + 1] = arrival
  end
  return others
end

-- A second run has the ticket of the first, and takes no worker whose one job would be a trial.
function Hedges.grant()
  for _, arrival in ipairs(put_aside) do
    local number, bound, _, ticket, tried, _, tenant, pool, memory = unpack(arrival)
    local asked = {bound = bound, tried = tried, tenant = tenant_named(tenant), pool = pool, memory = memory}
    local its_pool = pool_named(pool)
    local url, cap
    local is_free = its_pool and is_open(its_pool.room)
    if is_free and may_go_first(asked.tenant, pool, its_pool.room) then url, cap = pick(its_pool, ticket, asked) end
    if url and cap ~= TRIAL and Seldom.fill_hedges(true) then
      grant(holder(number), ticket, url, cap, asked)
    else
      tell('unhedged', number)
    end
  end
end
