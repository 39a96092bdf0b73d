-- Remove an ended job's record and what of it lies in Redis; its tombstone stays.
-- ARGV: 1 id
-- Returns {latent reference, report}, or nothing when there is no such job, or it has not ended.
--@ lib
--@ rq_forget
local job = read_job(ARGV[1])
if not job.status or job.status == 'queued' or job.status == 'started' then return nil end
must_write()
local left = redis.call('HMGET', JOB .. job.id, 'latent', 'report')
local latent = blob_key(left[1] or '')
if latent then redis.call('DEL', latent) end
for reference in string.gmatch(left[2] or '', '"(redis:image:[%w_.-]+)"') do redis.call('DEL', blob_key(reference)) end
bury(job, 'expired', 'discarded', TOMBSTONE_SECONDS)
rq_forget(job)
release(job.id, job.held)
redis.call('DEL', JOB .. job.id)
if job.status ~= 'expired' then tell(job.id, 'expired', job.owner) end
return {left[1] or '', left[2] or ''}
