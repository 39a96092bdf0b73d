-- Write one job's outcome, in the name of a claim: its record, RQ's side, its tombstone, the word to those who wait. Its
-- preview goes. One of a preview that is no picture leaves nothing.
-- ARGV: 1 id, 2 token, 3 status, 4 worker, 5 reason or '', 6 report or '', 7 device seconds beyond those charged at the
--       claim, 8 RQ's date, 9 RQ's result, 10 RQ's reason, 11 RQ's data, 12 RQ's date of the submit,
--       13 device seconds of the job, '' where it was not decoded, 14 '1' where no decode was tried, though it may have
--       begun with its claim, 15... references of the job's pictures
-- Returns 'settled', 'lost', or 'gone' when a picture is not where the report says.
--@ lib
--@ rq_finish
--@ rq_fail
--@ rq_fail_unstarted
--@ rq_cancel
--@ previews
-- How far one job moves the mean.
local PACE, PACE_WEIGHT = 'vaefarm:pace', 0.1
local job, token, status = read_job(ARGV[1]), ARGV[2], ARGV[3]
-- The reply to an earlier try may have been lost after it took effect.
if not owns(job.id, token) then
  if job.token == token and job.status == status then return 'settled' end
  -- A loser's pictures, which were written just before, go in the same step: it may die before it could remove them.
  for place = 15, #ARGV do
    local key = blob_key(ARGV[place])
    if key and string.find(key, token, 1, true) then redis.call('DEL', key) end
  end
  return 'lost'
end
local kept = 0
for place = 15, #ARGV do
  local bytes = size_of(ARGV[place])
  if not bytes then return 'gone' end
  kept = kept + bytes
end
must_write()
local preview = is_preview(job.id)
if preview and status ~= 'finished' then
  give_up_preview(job)
  return 'settled'
end
if preview then show_preview(job.id, kept) end
local began = job.execution
job.execution, job.iso, job.result, job.exc_string = began or '', ARGV[8], ARGV[9], ARGV[10]
job.data, job.created, job.worker = ARGV[11], ARGV[12], ARGV[4]
local life = job.result_seconds
if status == 'finished' then rq_finish(job)
elseif status == 'failed' then
  life, kept = job.failure_seconds, size_of(job.latent or '') or 0
  if began then rq_fail(job) else rq_fail_unstarted(job) end
else
  rq_cancel(job)
  if began then rq_end_execution(job) end
end
local fields = {'token', token}
if ARGV[14] == '1' and job.started_with == token then redis.call('HINCRBY', JOB .. job.id, 'attempts', -1) end
if ARGV[6] ~= '' then fields[3], fields[4] = 'report', ARGV[6] end
redis.call('HSET', JOB .. job.id, unpack(fields))
finish_record(job, status, ARGV[5], life, kept)
if not preview then drop_preview_of(job.id) end
-- Less than a millisecond beyond the estimate changes no turn.
local extra = tonumber(ARGV[7])
if math.abs(extra) >= 0.001 then charge(job.queue, extra) end
local vae, _, size = parts(job.queue)
local fresh = tonumber(ARGV[13])
if vae and fresh then
  local field = vae .. ':' .. size
  local mean = number(redis.call('HGET', PACE, field), fresh)
  redis.call('HSET', PACE, field, string.format('%.6g', mean + PACE_WEIGHT * (fresh - mean)))
end
return 'settled'
