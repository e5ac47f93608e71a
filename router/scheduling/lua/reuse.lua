-- Identical jobs that share one run: whose run it is, which processes have jobs that wait for it, and the answer that
-- further jobs get.
--
-- REUSE_OF a key is '<until> @<process> <process> …' while a run is pending or running: first the process that has it,
-- then those that wait for it, each with a space behind it. Once the run is over it is '<until> =<answer>', or
-- '<until> -' if the run brought nothing for other jobs: then each runs by itself. REUSED has '<key> <bytes>' of each
-- answer, scored by the moment at which it is dropped, and REUSED_BYTES the sum of the bytes.
--
-- Twin     router/scheduling/local/reuse.py, SharedRuns
-- Writes   REUSE_OF, REUSED, REUSED_BYTES
-- @lazy Reuse
-- @include context
-- @include leases
-- @include queue

-- The moment after so many ms, and how long Redis keeps what is valid until then, both as texts: most jobs of a call
-- have the same.
local last_ms, last_moment, last_ttl
local function moment_and_ttl(ms)
  if ms ~= last_ms then
    last_ms, last_moment = ms, string.format('%.0f', now + ms)
    last_ttl = string.format('%.0f', ms + PROCESS_TTL_MS)
  end
  return last_moment, last_ttl
end

-- Let an arriving job share a run of its key; if there is none, others share its own one for `ms`. Return whether the
-- job gets no lease: it gets an answer, or waits for another process' run. A process has one run of a key: what it asks
-- for again is that one.
function Reuse.shares(number, name, ticket, ms)
  local moment, ttl = moment_and_ttl(math.max(ms, 1))
  local key, mark = REUSE_OF .. name, moment .. ' @' .. call.process .. ' '
  local held = redis.call('SET', key, mark, 'NX', 'GET', 'PX', ttl)
  if not held then return false end
  local ends, kind, rest = string.match(held, '^(%d+) (.)(.*)$')
  local is_running, is_valid = kind == '@', tonumber(ends) > now
  if is_valid and kind == '=' then
    tell('shared', {number, ticket, '', rest})
    return true
  elseif is_valid and kind == '-' then
    return false
  end
  local owner, others = string.match(is_running and rest or '', '^(%S+) (.*)$')
  if is_valid and owner ~= call.process and is_alive(owner) then
    if not string.find(' ' .. others, ' ' .. call.process .. ' ', 1, true) then
      redis.call('APPEND', key, call.process .. ' ')
    end
    tell('shared', {number, ticket, owner})
    return true
  end
  redis.call('SET', key, mark .. (others or ''), 'PX', ttl)
  return false
end

-- How many bytes more are kept, as far as this call has kept and dropped answers.
local more_bytes = 0

-- A run of the calling process is over. The arguments are RunOver's fields (router/scheduling/messages.py).
function Reuse.end_run(key, ms, answer)
  local moment, ttl = moment_and_ttl(ms)
  local held
  if answer ~= '' then
    held = redis.call('SET', REUSE_OF .. key, moment .. ' =' .. answer, 'GET', 'PX', ttl) or ''
    local before = string.match(held, '^%d+ =(.*)$')
    if before then more_bytes = more_bytes - redis.call('ZREM', REUSED, key .. ' ' .. #before) * #before end
    more_bytes = more_bytes + redis.call('ZADD', REUSED, moment, key .. ' ' .. #answer) * #answer
  else
    held = redis.call('GET', REUSE_OF .. key) or ''
    if string.match(held, '^%d+ @(%S+) ') ~= call.process then return end
    if ms == 0 then
      redis.call('DEL', REUSE_OF .. key)
    else
      redis.call('SET', REUSE_OF .. key, moment .. ' -', 'PX', ttl)
    end
  end
  local others = string.match(held, '^%d+ @%S+ (.+)$') or ''
  for process in string.gmatch(others, '%S+') do
    if process ~= call.process then
      local list = listed(grants, process)
      list[#list + 1] = cjson.encode({type = 'reuse', key = key})
    end
  end
end

-- Forget answers that nobody gets any more, and drop those that would be dropped first while there are too many bytes.
function Reuse.drop_answers()
  local passed = redis.call('ZRANGEBYSCORE', REUSED, '-inf', now, 'LIMIT', 0, WORDS_A_COMMAND)
  for _, name in ipairs(passed) do more_bytes = more_bytes - string.match(name, '%d+$') end
  call_with(passed, 'ZREM', REUSED)
  local bytes = redis.call('INCRBY', REUSED_BYTES, string.format('%.0f', more_bytes))
  while bytes > rules.reuse_bytes do
    local first = redis.call('ZPOPMIN', REUSED)[1]
    local key, size = string.match(first or '', '^(%S+) (%d+)$')
    if not key then -- Redis has lost the list
      redis.call('DEL', REUSED_BYTES)
      return
    end
    redis.call('DEL', REUSE_OF .. key)
    bytes = redis.call('DECRBY', REUSED_BYTES, size)
  end
end
