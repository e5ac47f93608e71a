-- The ring of round robin, and a ring apart for slow workers. Each is smooth weighted round robin over classes of workers of equal weight.
--
-- Twin     router/scheduling/local/ring.py, weighted_ring, rings
-- @lazy Seldom
-- @include context

-- Add to the `places` of each worker its places in a ring that begins at `first`; return the ring's length.
function Seldom.lay_ring(workers, first)
  local classes, by_weight, total = {}, {}, 0
  for _, worker in ipairs(workers) do
    local class = by_weight[worker.weight]
    if not class then
      class = {credit = 0, turns = 0, weight = worker.weight}
      by_weight[worker.weight] = class
      classes[#classes + 1] = class
    end
    class[#class + 1] = worker
  end
  local function gcd(a, b) return b == 0 and a or gcd(b, a % b) end
  local divisor = 0
  for _, class in ipairs(classes) do divisor = gcd(class.weight, divisor) end
  for _, class in ipairs(classes) do
    class.share = class.weight / divisor * #class
    total = total + class.share
  end
  for place = 0, total - 1 do
    local chosen
    for _, class in ipairs(classes) do
      class.credit = class.credit + class.share
      if not chosen or class.credit > chosen.credit then chosen = class end
    end
    chosen.credit = chosen.credit - total
    local places = chosen[chosen.turns % #chosen + 1].places
    places[#places + 1] = string.format('%.0f', first + place)
    chosen.turns = chosen.turns + 1
  end
  return total
end

-- Add to each worker its places, those of slow workers behind all others. Return the lengths of the two rings. If all
-- are slow, none is.
function Seldom.lay_rings(workers)
  local usual, slow = {}, {}
  for _, worker in ipairs(workers) do
    local list = worker.is_slow and slow or usual
    list[#list + 1] = worker
  end
  if #usual == 0 then usual, slow = slow, usual end
  local lengths = {Seldom.lay_ring(usual, 0), Seldom.lay_ring(slow, BEHIND)}
  if is_by_load then
    for _, worker in ipairs(usual) do worker.places = {'0'} end
    for _, worker in ipairs(slow) do worker.places = {string.format('%.0f', BEHIND)} end
  end
  return unpack(lengths)
end
