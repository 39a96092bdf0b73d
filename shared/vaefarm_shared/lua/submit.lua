-- Put one job on its queue, at most once: repeating the call with the same arguments changes nothing.
-- A large latent was written before, with a short life: taking the job makes it last, refusing the job removes it. A
-- small one comes along and is written when the job is taken.
-- ARGV: 1 id, 2 request hash, 3 spec, 4 queue, 5 latent reference, 6 bytes that the job holds until it ends, 7 pixels,
--       8 result seconds, 9 failure seconds, 10 most bytes, 11 most jobs, 12 RQ's data, 13 RQ's date,
--       14 owner, '' for the admin, 15 most jobs of that owner that have not ended, or '',
--       16 webhook or '', 17 the latent's bytes, '' where they do not come along,
--       and of a job with a preview, which is queued first, the preview's 18 id, 19 request hash, 20 spec, 21 queue, 22 latent
--       reference, 23 bytes that it holds
-- Returns {verdict, status}: 'created', 'same', 'conflict', 'foreign' when the id is another owner's, or 'gone' when the
--          latent is; or {'full', 'bytes' or 'jobs',
--          now held}, {'quota', how many the owner has}.
--@ lib
--@ rq_create
--@ queue_preview
local id, hash, queue, held, owner = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[6]), ARGV[14]
local latent, carried = blob_key(ARGV[5]), ARGV[17]
local written = carried == '' and latent
local before = redis.call('HMGET', JOB .. id, 'request_hash', 'status', 'queue', 'held', 'latent',
  'owner')
local request_hash, status, owned_by = before[1], before[2], before[6]

-- An answer other than 'created': what was written for it goes, unless the job that there is keeps the same latent.
local function refuse(...)
  local keeps = before[5] == ARGV[5] and (status == 'queued' or status == 'started' or status == 'failed')
  if written and not keeps and redis.call('TTL', latent) >= 0 then redis.call('DEL', latent) end
  return {...}
end

if not status then
  local tombstone = redis.call('GET', TOMBSTONE .. id)
  if tombstone then
    local stone = cjson.decode(tombstone)
    request_hash, status, owned_by = stone.request_hash, 'expired', stone.owner
  end
end
if status then
  if owner ~= '' and owned_by ~= owner then return refuse('foreign', '') end
  if request_hash ~= hash then return refuse('conflict', status) end
  if status == 'queued' or status == 'started' or status == 'finished' then return refuse('same', status) end
end
local inflight = ARGV[15] ~= '' and owner ~= '' and number(redis.call('HGET', INFLIGHT, owner), 0)
local jobs, bytes = 1, held
if ARGV[18] then
  -- That of a step, which waits or is in hand, counts already.
  local step = redis.call('HMGET', JOB .. ARGV[18], 'status', 'owner')
  local counts = (step[1] == 'queued' or step[1] == 'started') and (step[2] or '') == owner
  jobs, bytes = counts and 1 or 2, held + tonumber(ARGV[23])
end
if inflight and inflight + jobs > tonumber(ARGV[15]) then return refuse('quota', tostring(inflight)) end
local used = redis.call('HMGET', BUDGET, 'bytes', 'jobs')
if number(used[1], 0) + bytes > tonumber(ARGV[10]) then return refuse('full', 'bytes', used[1] or '0') end
if number(used[2], 0) + jobs > tonumber(ARGV[11]) then return refuse('full', 'jobs', used[2] or '0') end
if written and redis.call('EXISTS', latent) == 0 then return {'gone', ''} end
-- A script that has written once may go on beyond maxmemory. So the first write is one that a full Redis refuses:
-- the submit is refused whole, and nothing was touched.
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
if before[3] then redis.call('ZREM', 'rq:failed:' .. before[3], id) end
release(id, number(before[4], 0))
redis.call('DEL', JOB .. id, TOMBSTONE .. id, LEASE .. id, 'rq:job:' .. id)
if written then redis.call('PERSIST', latent) elseif latent then redis.call('SET', latent, carried) end
if ARGV[18] then
  local in_redis = blob_key(ARGV[22])
  queue_preview({id = ARGV[18], hash = ARGV[19], spec = ARGV[20], queue = ARGV[21], latent = ARGV[22], held = tonumber(ARGV[23]),
    pixels = ARGV[7], seconds = ARGV[8], data = ARGV[12], created = ARGV[13], owner = owner,
    bytes = in_redis and latent and redis.call('GET', latent) or '', is_last = true})
end
local length, place = push(queue, id)
redis.call('HSET', JOB .. id, 'spec', ARGV[3], 'status', 'queued', 'queue', queue, 'request_hash', hash,
  'latent', ARGV[5], 'queued_at', STAMP, 'attempts', 0, 'held', held, 'reserve', held, 'pixels', ARGV[7],
  'result_seconds', ARGV[8], 'failure_seconds', ARGV[9], 'place', place)
if status then redis.call('HSET', JOB .. id, 'anew', 1) end
if owner ~= '' then redis.call('HSET', JOB .. id, 'owner', owner) end
if ARGV[16] ~= '' then redis.call('HSET', JOB .. id, 'webhook', ARGV[16]) end
rq_create({id = id, queue = queue, data = ARGV[12], created = ARGV[13], result_seconds = ARGV[8],
  failure_seconds = ARGV[9]})
account(held, 1, owner ~= '' and owner)
enter(queue)
-- Behind others nobody idles, and what is rung at a busy worker piles up.
if length == 1 then ring(queue) end
tell(id, 'queued', owner ~= '' and owner)
return {'created', 'queued'}
