-- Return claimed jobs to the front of their queues, the first given first, each in the name of its claim. A preview whose
-- attempt failed, or whose worker died, is given up.
-- ARGV: 1 worker, 2 reason or '', 3 most attempts, 4 '1' when the worker died, then for each job: id, token, how:
--       'free': an attempt that began costs nothing; 'alone': nor does this one, but it runs alone next time;
--       'attempt': it counts, and the job runs alone next time; 'avoid': costs nothing, and this worker takes it no more
-- Returns for each 'returned' or 'lost'; or 'exhausted' when its attempts are spent, which ends its lease: the reaper
-- settles it.
--@ lib
--@ requeue
must_write()
local verdicts = {}
for place = #ARGV - 2, 5, -3 do
  local id, how, verdict = ARGV[place], ARGV[place + 2], 'lost'
  if owns(id, ARGV[place + 1]) then
    local job = read_job(id)
    if how == 'avoid' then
      local avoid = redis.call('HGET', JOB .. id, 'avoid') or ','
      redis.call('HSET', JOB .. id, 'avoid', string.sub(avoid .. ARGV[1] .. ',', -2048))
    end
    if is_preview(id) and (how == 'attempt' or how == 'alone' or ARGV[4] == '1') then
      give_up_preview(job)
      verdict = 'returned'
    elseif how == 'attempt' and job.started_with and job.attempts >= tonumber(ARGV[3]) then
      redis.call('HSET', JOB .. id, 'last_error', ARGV[2])
      redis.call('ZADD', LEASES, 'XX', 0, id)
      verdict = 'exhausted'
    else
      requeue(job, how ~= 'attempt', how == 'alone' or how == 'attempt', ARGV[2])
      if ARGV[4] == '1' then redis.call('HINCRBY', LOST, vae_of(job.queue), 1) end
      verdict = 'returned'
    end
  end
  table.insert(verdicts, 1, verdict)
end
return verdicts
