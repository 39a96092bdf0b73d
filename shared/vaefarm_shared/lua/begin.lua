-- Write that the decode of a batch begins, each job in the name of its claim.
-- ARGV: 1 worker, 2 RQ's date, 3 '1' when several jobs share the device, then for each job:
--       id, token, execution, seconds after its submit by which it must begin or ''
-- Returns for each the number of its attempt, 'lost' or 'expired'.
--@ lib
--@ rq_begin
must_write()
local verdicts = {}
local function begin(id, token, execution, deadline)
  if not owns(id, token) then return 'lost' end
  local job = read_job(id)
  if job.started_with == token then return job.attempts end
  local queued_at = number(redis.call('HGET', JOB .. id, 'queued_at'), TIME)
  if deadline ~= '' and TIME > queued_at + tonumber(deadline) then return 'expired' end
  job.execution, job.worker, job.iso = execution, ARGV[1], ARGV[2]
  rq_begin(job)
  redis.call('HSET', JOB .. id, 'status', 'started', 'started_at', STAMP, 'attempts', job.attempts + 1,
    'worker', ARGV[1], 'execution', execution, 'started_with', token, 'shared', ARGV[3])
  tell(id, 'started', job.owner)
  return job.attempts + 1
end
for place = 4, #ARGV, 4 do
  verdicts[#verdicts + 1] = begin(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])
end
return verdicts
