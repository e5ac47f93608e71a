-- What has happened, for people: the journal of the fleet. Nothing here runs for a job that goes well.
--
-- Twin     none: without Redis there is no journal
-- Writes   EVENTS, EVENTS_COUNTS
-- @lazy Seldom
-- @include context

-- Write an event (router/fleet/journal/model.py). A key that redis-cli has made another type of must not harm the call.
function Seldom.note(kind, subject, text, more)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'subject', subject, 'text', text,
    'by', call.process, 'more', cjson.encode(more))
  redis.pcall('HINCRBY', EVENTS_COUNTS, kind, 1)
end

function Seldom.note_ejection(url, times, failures, cause, for_ms)
  local what = 'a failed trial job'
  if times == 1 then what = failures == 1 and '1 failed job' or failures .. ' failed jobs in a row, the last' end
  Seldom.note('worker_ejected', url,
    'Worker ' .. url .. ' is ejected: it gets no jobs for ' .. math.ceil(for_ms / 1000) .. ' s, after ' .. what .. ': ' .. cause,
    {until_unix_s = (now + for_ms) / 1000, times = times, cause = cause})
end

function Seldom.note_return(url, why)
  Seldom.note('worker_returned', url, 'Worker ' .. url .. ' is ejected no more: ' .. why, {})
end

function Seldom.note_quarantine(job, tenant, urls)
  table.sort(urls)
  Seldom.note('job_quarantined', tenant,
    'A job of tenant ' .. tenant .. ' is refused for ' .. math.ceil(rules.quarantine_ms / 1000) ..
      ' s: these workers broke down while they ran it: ' .. table.concat(urls, ', '),
    {job = job, workers = urls, until_unix_s = (now + rules.quarantine_ms) / 1000})
end

function Seldom.note_silence(process)
  Seldom.note('router_silent', process,
    'Router process ' .. process .. ' has not been heard of for ' .. PROCESS_TTL_MS / 1000 ..
      ' s: it was killed, hangs, or cannot reach Redis', {})
end
