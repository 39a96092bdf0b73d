-- Return the jobs whose leases have ended to the front of their queues. A job that shared the device runs alone next
-- time; one that was alone on it has spent an attempt. Previews are given up.
-- ARGV: 1 most jobs, 2 most attempts, 3 Redis' time at which it was asked: a call that waited for long reaps nothing,
--       since nobody could renew meanwhile
-- Returns {id, queue, token, worker, verdict, attempts, last error} for each: 'returned', or 'exhausted' when its
-- attempts are spent, which leaves it as it is for a settle in the dead claim's name.
--@ lib
--@ requeue
if TIME > tonumber(ARGV[3]) + 1 then return {} end
must_write()
local reaped = {}
local function reap(id)
  local token = redis.call('GET', LEASE .. id)
  local job = read_job(id)
  if not token or job.queue == '' then
    redis.call('ZREM', LEASES, id)
    redis.call('DEL', LEASE .. id)
    return nil
  end
  redis.call('HINCRBY', LOST, vae_of(job.queue), 1)
  if is_preview(id) then return give_up_preview(job) end
  local alone = job.started_with and not job.shared
  local verdict = 'returned'
  if alone and job.attempts >= tonumber(ARGV[2]) then verdict = 'exhausted'
  else requeue(job, not alone, job.started_with, 'its worker ' .. job.worker .. ' went silent') end
  local last_error = redis.call('HGET', JOB .. id, 'last_error') or ''
  return {id, job.queue, token, job.worker, verdict, job.attempts, last_error}
end
local over = redis.call('ZRANGEBYSCORE', LEASES, '-inf', TIME, 'LIMIT', 0, ARGV[1])
for place = #over, 1, -1 do
  local id = over[place]
  -- A record that somebody garbled keeps nobody else's job from coming back.
  local good, reply = pcall(reap, id)
  if good and reply then reaped[#reaped + 1] = reply
  elseif not good then redis.call('ZADD', LEASES, 'XX', TIME + 60, id) end
end
return reaped
