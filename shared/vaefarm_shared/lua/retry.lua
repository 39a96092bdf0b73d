-- Queue a failed job anew, with the latent that was kept.
-- ARGV: 1 id
-- Returns 'queued', or why not: its status, '' when there is no such job, 'gone' when its latent is.
--@ lib
--@ rq_requeue
local job = read_job(ARGV[1])
if job.status ~= 'failed' then return job.status or '' end
local latent = blob_key(job.latent or '')
if latent and redis.call('EXISTS', latent) == 0 or not job.latent then return 'gone' end
redis.call('SADD', 'rq:queues', 'rq:queue:' .. job.queue)
rq_requeue(job)
if latent then redis.call('PERSIST', latent) end
redis.call('DEL', TOMBSTONE .. job.id)
redis.call('PERSIST', JOB .. job.id)
local reserve = number(redis.call('HGET', JOB .. job.id, 'reserve'), job.held)
if redis.call('ZREM', KEPT, job.id .. ':' .. job.held) == 1 then account(-job.held, 0) end
account(reserve, 1, job.owner)
local _, place = push(job.queue, job.id)
redis.call('HSET', JOB .. job.id, 'status', 'queued', 'attempts', 0, 'queued_at', STAMP, 'held', reserve,
  'place', place)
redis.call('HDEL', JOB .. job.id, 'reason', 'ended_at', 'token', 'last_error')
enter(job.queue)
ring(job.queue)
tell(job.id, 'queued', job.owner)
return 'queued'
