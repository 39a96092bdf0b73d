-- Return claimed jobs to the front of their queues, the first given first, each in the name of its claim.
-- ARGV: 1 worker, 2 reason or '', then for each job: id, token, how:
--       'free': an attempt that began costs nothing; 'alone': nor does this one, but it runs alone next time;
--       'attempt': it counts, and the job runs alone next time; 'avoid': costs nothing, and this worker takes it no more
-- Returns for each 'returned' or 'lost'.
--@ lib
--@ requeue
must_write()
local verdicts = {}
for place = #ARGV - 2, 3, -3 do
  local id, how, verdict = ARGV[place], ARGV[place + 2], 'lost'
  if owns(id, ARGV[place + 1]) then
    local job = read_job(id)
    if how == 'avoid' then
      local avoid = redis.call('HGET', JOB .. id, 'avoid') or ','
      redis.call('HSET', JOB .. id, 'avoid', string.sub(avoid .. ARGV[1] .. ',', -2048))
    end
    requeue(job, how ~= 'attempt', how == 'alone' or how == 'attempt', ARGV[2])
    verdict = 'returned'
  end
  table.insert(verdicts, 1, verdict)
end
return verdicts
