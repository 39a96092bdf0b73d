--@ rq_requeue
--@ previews
-- Put a job that was claimed at the front of its queue again. `free`: an attempt that has begun is taken back.
-- `alone`: it shares the device with no other job from now on.
local function requeue(job, free, alone, reason)
  local attempts = job.attempts
  if free and job.started_with then attempts = math.max(0, attempts - 1) end
  rq_requeue(job)
  if job.execution then rq_end_execution(job) end
  redis.call('HSET', JOB .. job.id, 'status', 'queued', 'attempts', attempts)
  if alone then redis.call('HSET', JOB .. job.id, 'alone', '1') end
  if reason ~= '' then redis.call('HSET', JOB .. job.id, 'last_error', reason) end
  redis.call('HDEL', JOB .. job.id, 'execution', 'started_with', 'shared')
  forget_pictures(job.id)
  redis.call('DEL', LEASE .. job.id)
  redis.call('ZREM', LEASES, job.id)
  push_front(job.queue, job.id)
  enter(job.queue)
  ring(job.queue)
  if job.status == 'started' then tell(job.id, 'queued', job.owner) end
end
