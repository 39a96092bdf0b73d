-- End jobs that have not ended. A worker that holds one loses its lease and changes nothing more.
-- ARGV: 1 reason, 2 '1' to take each off its queue now, which costs a walk through the queue; otherwise its entry is
--       dropped when it is claimed, 3... ids
-- Returns for each its status afterwards, or '' when there is no such job.
--@ lib
--@ rq_cancel
--@ previews
must_write()
local statuses = {}
for place = 3, #ARGV do
  local job = read_job(ARGV[place])
  if job.status and is_preview(job.id) then
    drop_preview(job.id)
    job.status = 'canceled'
  elseif job.status == 'queued' or job.status == 'started' then
    rq_cancel(job)
    if job.execution then rq_end_execution(job) end
    if ARGV[2] == '1' then pull(job.queue, job.id, 0) end
    finish_record(job, 'canceled', ARGV[1], job.result_seconds, 0)
    drop_preview_of(job.id)
    job.status = 'canceled'
  end
  statuses[#statuses + 1] = job.status or ''
end
return statuses
