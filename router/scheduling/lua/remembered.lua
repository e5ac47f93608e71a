-- What the server remembers of the plan from call to call, if the script is a library (router/scheduling/lua_library.py).
--
-- As long as PLAN_HEAD has the same `made`, PLAN and MEMORY stay as they are, PLACES do if there are as many rooms, and so does each
-- pool in POOLS. A plan of the last release has no `made`, and nothing of it is remembered.
--
-- @include context

-- @kept
local remembered = {made = ''}
-- @kept
local plans_made = 0

local function remember_plan(made)
  if made == '' or remembered.made ~= made then
    remembered = {
      made = made, rooms = 0, entries = {}, members = {}, places = {}, pools = {}, finished = {}, memory = {},
    }
  end
  if remembered.rooms ~= rooms then remembered.rooms, remembered.places = rooms, {} end
end

-- Forget the plan, for a new one is made. Return its name, which no other plan has.
local function new_plan()
  plans_made = plans_made + 1
  remember_plan('')
  remembered.made = moment_of_call .. ' ' .. call.process .. ' ' .. plans_made
  return remembered.made
end
