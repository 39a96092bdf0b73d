-- Queue a preview of a job that has not ended, or is yet to come; one that waits is replaced where it stands.
-- ARGV: 1 the preview's id, 2 request hash, 3 spec, 4 queue, 5 latent reference, 6 bytes that it holds until it ends, 7 pixels,
--       8 seconds that it lives, 9 most bytes, 10 most jobs, 11 RQ's data, 12 RQ's date, 13 owner, '' for the admin,
--       14 most jobs of that owner that have not ended, or '', 15 the latent's bytes, '' where they lie elsewhere
-- Returns {'queued', reference of the latent that was replaced or ''}, {'same', ''}, {'busy', ''} while a worker has one,
--          {'ended', the job's status}, {'foreign', ''} when the job is another owner's, or as submit {'full', ...},
--          {'quota', ...}.
--@ lib
--@ rq_create
--@ queue_preview
local id, owner, held = ARGV[1], ARGV[13], tonumber(ARGV[6])
local job = job_of_preview(id)
local found = redis.call('HMGET', JOB .. job, 'status', 'owner')
if not found[1] then
  local tombstone = redis.call('GET', TOMBSTONE .. job)
  if tombstone then found = {false, cjson.decode(tombstone).owner or false, true} end
end
local known = found[1] or found[3]
if known and owner ~= '' and found[2] ~= owner then return {'foreign', ''} end
-- An admin's is the job's owner's, too.
if known then owner = found[2] or '' end
if found[1] and found[1] ~= 'queued' and found[1] ~= 'started' then return {'ended', found[1]} end
local before = read_job(id)
if not known and before.status and owner ~= '' and (before.owner or '') ~= owner then return {'foreign', ''} end
local waits = before.status == 'queued'
local inflight = ARGV[14] ~= '' and owner ~= '' and not waits and number(redis.call('HGET', INFLIGHT, owner), 0)
if inflight and inflight + 1 > tonumber(ARGV[14]) then return {'quota', tostring(inflight)} end
local used = redis.call('HMGET', BUDGET, 'bytes', 'jobs')
local more = waits and held - before.held or held
if number(used[1], 0) + more > tonumber(ARGV[9]) then return {'full', 'bytes', used[1] or '0'} end
if not waits and number(used[2], 0) + 1 > tonumber(ARGV[10]) then return {'full', 'jobs', used[2] or '0'} end
return {queue_preview({id = id, hash = ARGV[2], spec = ARGV[3], queue = ARGV[4], latent = ARGV[5], held = held, pixels = ARGV[7],
  seconds = tonumber(ARGV[8]), data = ARGV[11], created = ARGV[12], owner = owner, bytes = ARGV[15]})}
