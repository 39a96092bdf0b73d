-- Write that the decode of a claimed job begins; needs lib and rq_begin. `shared`: '1' when several share the device.
-- `deadline`: seconds after its submit by which it must begin, or ''. Returns the number of the attempt, 'lost' or
-- 'expired'.
local function begin_one(id, token, execution, deadline, worker, iso, shared)
  if not owns(id, token) then return 'lost' end
  local job = read_job(id)
  if job.started_with == token then return job.attempts end
  local queued_at = number(redis.call('HGET', JOB .. id, 'queued_at'), TIME)
  if deadline ~= '' and TIME > queued_at + tonumber(deadline) then return 'expired' end
  job.execution, job.worker, job.iso = execution, worker, iso
  rq_begin(job)
  redis.call('HSET', JOB .. id, 'status', 'started', 'started_at', STAMP, 'attempts', job.attempts + 1,
    'worker', worker, 'execution', execution, 'started_with', token, 'shared', shared)
  tell(id, 'started', job.owner)
  return job.attempts + 1
end
