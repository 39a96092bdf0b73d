-- Remove an ended job's record; its tombstone stays.
-- ARGV: 1 id
-- Returns {latent reference, report}, or nothing when there is no such job, or it has not ended.
--@ lib
--@ rq_forget
local job = read_job(ARGV[1])
if not job.status or job.status == 'queued' or job.status == 'started' then return nil end
local left = redis.call('HMGET', JOB .. job.id, 'latent', 'report')
local stone = {status = 'expired', request_hash = job.request_hash or '', reason = 'discarded'}
redis.call('SET', TOMBSTONE .. job.id, cjson.encode(stone), 'EX', TOMBSTONE_SECONDS)
rq_forget(job)
release(job.id, job.held)
redis.call('DEL', JOB .. job.id)
return {left[1] or '', left[2] or ''}
