--@ rq_end_execution
--@ rq_forget
-- A preview is a job of its own under its job's id and '--preview'. Its record lives until its job has ended, until its
-- life is over (PREVIEWS has it until it is made, the record's own life from then on), or until no picture comes of it.
-- Where an earlier one was made the record is used again: `report` is of the one that is shown, and `shown` of the bytes
-- that are held are its pictures'. Needs lib.
local PREVIEWS = 'vaefarm:previews'

local function forget_shown(id) forget_reported(redis.call('HGET', JOB .. id, 'report')) end

-- Remove a preview and all that is its own. `is_off`: its entry was taken off its queue.
local function drop_preview(id, is_off)
  local job = read_job(id)
  redis.call('ZREM', PREVIEWS, id)
  if not job.status then return end
  local lives = job.status == 'queued' or job.status == 'started'
  if job.execution then rq_end_execution(job) end
  rq_forget(job)
  forget_pictures(id)
  forget_shown(id)
  local latent = blob_key(job.latent or '')
  if latent then redis.call('DEL', latent) end
  -- The oldest is canceled first: its entry stands near the head.
  if lives and not is_off and redis.call('EXISTS', LEASE .. id) == 0 then pull(job.queue, id, 1) end
  redis.call('DEL', JOB .. id, TOMBSTONE .. id, LEASE .. id)
  redis.call('ZREM', LEASES, id)
  if lives then
    account(-job.held, -1, job.owner)
    redis.call('PUBLISH', 'vaefarm:done:' .. id, 'canceled')
    tell(id, 'canceled', job.owner)
  else release(id, job.held) end
end

-- Its job has ended.
local function drop_preview_of(id)
  if redis.call('EXISTS', JOB .. id .. SUFFIX) == 1 then drop_preview(id .. SUFFIX) end
end

-- Before a claimed preview is finished: the one that was shown goes. `kept`: bytes of its own pictures in Redis.
local function show_preview(id, kept)
  forget_shown(id)
  redis.call('HSET', JOB .. id, 'shown', kept)
  redis.call('ZREM', PREVIEWS, id)
end

-- Nothing comes of a claimed preview, and nobody tries again: what was shown before stays.
local function give_up_preview(job)
  local shown = redis.call('HMGET', JOB .. job.id, 'report', 'shown')
  if not shown[1] then return drop_preview(job.id, true) end
  if job.execution then rq_end_execution(job) end
  -- Its job may never come, and RQ's side has no end of its own while it is not finished.
  rq_forget(job)
  forget_pictures(job.id)
  redis.call('ZREM', PREVIEWS, job.id)
  finish_record(job, 'finished', '', job.result_seconds, number(shown[2], 0))
end
