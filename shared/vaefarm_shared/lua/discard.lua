-- Remove an ended job's record and what of it lies in Redis; its tombstone stays: of a finished job for a minute, in
-- which the call may be repeated and those who were told ask; of any other for a week. So is that of one whose id had been
-- submitted before: an entry of then may wait on its queue, and the tombstone says that it is nobody's.
-- ARGV: 1 id
-- Returns {latent reference, report}, or nothing when there is no such job, or it has not ended.
--@ lib
--@ rq_forget
local DISCARDED_SECONDS = 60
local job = read_job(ARGV[1])
if not job.status or job.status == 'queued' or job.status == 'started' then return nil end
must_write()
local left = redis.call('HMGET', JOB .. job.id, 'latent', 'report', 'anew')
local latent = blob_key(left[1] or '')
if latent then redis.call('DEL', latent) end
forget_reported(left[2])
bury(job, 'expired', 'discarded', job.status == 'finished' and not left[3] and DISCARDED_SECONDS or TOMBSTONE_SECONDS)
rq_forget(job)
release(job.id, job.held)
redis.call('DEL', JOB .. job.id)
if job.status ~= 'expired' then tell(job.id, 'expired', job.owner) end
return {left[1] or '', left[2] or ''}
