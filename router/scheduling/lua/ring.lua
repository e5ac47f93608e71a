-- The ring of round robin: smooth weighted round robin over classes of workers of equal weight.
--
-- Twin     router/scheduling/local/ring.py, weighted_ring
-- @lazy Seldom

-- Add to the `places` of each worker its places in the ring; return the ring's length.
function Seldom.lay_ring(workers)
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
    places[#places + 1] = string.format('%.0f', place)
    chosen.turns = chosen.turns + 1
  end
  return total
end
