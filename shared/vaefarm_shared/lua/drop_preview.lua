-- Remove a preview, whatever became of it.
-- ARGV: 1 the preview's id, 2 owner, '' for the admin, who may remove everyone's
-- Returns 1 when there was one of that owner's.
--@ lib
--@ previews
local record = redis.call('HMGET', JOB .. ARGV[1], 'status', 'owner')
if not record[1] or ARGV[2] ~= '' and record[2] ~= ARGV[2] then return 0 end
must_write()
drop_preview(ARGV[1])
return 1
