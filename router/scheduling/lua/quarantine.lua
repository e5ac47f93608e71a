-- Which jobs break workers, and are refused for a while.
--
-- A death is a connection that broke under a job. A field of SUSPECT_OF is '<share of the evidence> <time of death>',
-- by URL.
--
-- Twin     router/scheduling/local/quarantine.py, Quarantine
-- Reads    WORKERS, DRAIN
-- Writes   QUARANTINE, SUSPECT_OF, BROKEN_OF, DEATHS; tells CHANGES
-- @lazy Seldom
-- @include context
-- @include journal

-- Return whether another worker has just died under another job. If so, let go of the jobs just convicted.
function Seldom.hear_of_outage(job, url)
  redis.call('ZREMRANGEBYSCORE', DEATHS, '-inf', now - BROKEN_WITHIN_MS)
  redis.call('ZADD', DEATHS, now, job .. ' ' .. url)
  redis.call('PEXPIRE', DEATHS, BROKEN_WITHIN_MS)
  for _, death in ipairs(redis.call('ZREVRANGE', DEATHS, 0, DEATHS_LOOKED_AT - 1)) do
    local other_job, other_url = string.match(death, '^(%S*) (.*)$')
    if other_job ~= job and other_url ~= url then
      local lately = now - BROKEN_WITHIN_MS + rules.quarantine_ms
      for _, convicted in ipairs(redis.call('ZRANGEBYSCORE', QUARANTINE, '(' .. lately, '+inf')) do
        if convicted ~= job then redis.call('ZREM', QUARANTINE, convicted) end
      end
      return true
    end
  end
  return false
end

-- Return the deaths that are held against a job: none if the last one is longer ago than the job would be refused.
function Seldom.deaths_of(suspect)
  local held, deaths, last = redis.call('HGETALL', suspect), {}, 0
  for index = 1, #held, 2 do
    local share, at = string.match(held[index + 1], '^(%S+) ?(%S*)$')
    at = tonumber(at) or 0
    deaths[#deaths + 1] = {url = held[index], share = tonumber(share), at = at}
    last = math.max(last, at)
  end
  if last > now - rules.quarantine_ms then return deaths end
  redis.call('DEL', suspect)
  return {}
end

-- Take in that the connection died on which `job` ran under the lease `name`, `ran` ms after it had begun. That is
-- evidence of 1 against the jobs that the worker ran, shared among them.
function Seldom.hear_of_death(job, url, name, ran)
  -- A worker that is drained, or has left the fleet, was to end anyway.
  if redis.call('SISMEMBER', WORKERS, url) == 0 or redis.call('SISMEMBER', DRAIN, url) == 1 then return end
  local broken, suspect = BROKEN_OF .. url, SUSPECT_OF .. job
  redis.call('ZREMRANGEBYSCORE', broken, '-inf', now - BROKEN_WITHIN_MS)
  redis.call('ZADD', broken, now, name)
  redis.call('PEXPIRE', broken, BROKEN_WITHIN_MS)
  local is_outage = Seldom.hear_of_outage(job, url)
  local shared = leases_on(url) + redis.call('ZCARD', broken)
  local share = tonumber(written((is_outage and OUTAGE_SHARE or 1) / shared))
  local evidence, urls = 0, {url}
  for _, death in ipairs(Seldom.deaths_of(suspect)) do
    -- A death on this worker, or one that this run has outlived, is of one cause with this death: together they are one
    -- piece of evidence.
    if death.url == url or death.at > now - ran then
      share = math.max(share, death.share)
      redis.call('HDEL', suspect, death.url)
    else
      evidence = evidence + death.share
      urls[#urls + 1] = death.url
    end
  end
  evidence = evidence + share
  redis.call('HSET', suspect, url, written(share) .. ' ' .. string.format('%.0f', now))
  redis.call('PEXPIRE', suspect, rules.quarantine_ms)
  if evidence < ENOUGH_EVIDENCE then
    redis.call('ZREM', QUARANTINE, job)
  elseif redis.call('ZADD', QUARANTINE, now + rules.quarantine_ms, job) == 1 then
    redis.call('PUBLISH', CHANGES, 'quarantine') -- so that all routers know before the client sends the job again
    Seldom.note_quarantine(job, tenant_of(name), urls)
  end
end

-- The job has been done well: what died under it before died of something else.
function Seldom.exonerate(job)
  redis.call('DEL', SUSPECT_OF .. job)
  redis.call('ZREM', QUARANTINE, job)
end

function Seldom.is_quarantined(job)
  return tonumber(redis.call('ZSCORE', QUARANTINE, job) or 0) > now
end
