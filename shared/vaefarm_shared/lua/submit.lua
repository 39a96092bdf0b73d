-- Put one job on its queue, at most once: repeating the call with the same arguments changes nothing.
-- ARGV: 1 id, 2 request hash, 3 spec, 4 queue, 5 latent reference, 6 latent bytes or '', 7 bytes that the job holds
--       until it ends, 8 pixels, 9 result seconds, 10 failure seconds, 11 most bytes, 12 most jobs, 13 RQ's data,
--       14 RQ's date
-- Returns {verdict, status}: 'created', 'same' or 'conflict'; or {'full', 'bytes' or 'jobs', now held}.
--@ lib
--@ rq_create
local id, hash, queue, held = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[7])
local before = redis.call('HMGET', JOB .. id, 'request_hash', 'status', 'queue', 'held', 'latent')
local request_hash, status = before[1], before[2]
if not status then
  local tombstone = redis.call('GET', TOMBSTONE .. id)
  if tombstone then request_hash, status = cjson.decode(tombstone).request_hash, 'expired' end
end
if status then
  if request_hash ~= hash then return {'conflict', status} end
  if status == 'queued' or status == 'started' or status == 'finished' then return {'same', status} end
end
local used = redis.call('HMGET', BUDGET, 'bytes', 'jobs')
if number(used[1], 0) + held > tonumber(ARGV[11]) then return {'full', 'bytes', used[1] or '0'} end
if number(used[2], 0) + 1 > tonumber(ARGV[12]) then return {'full', 'jobs', used[2] or '0'} end
-- A script that has written once may go on beyond maxmemory. So the first write is one that a full Redis refuses:
-- the submit is refused whole, and nothing was touched.
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
if before[3] then redis.call('ZREM', 'rq:failed:' .. before[3], id) end
release(id, number(before[4], 0))
redis.call('DEL', JOB .. id, TOMBSTONE .. id, LEASE .. id, 'rq:job:' .. id)
local latent = blob_key(ARGV[5])
if latent and ARGV[6] ~= '' then redis.call('SET', latent, ARGV[6]) end
redis.call('HSET', JOB .. id, 'spec', ARGV[3], 'status', 'queued', 'queue', queue, 'request_hash', hash,
  'latent', ARGV[5], 'queued_at', STAMP, 'attempts', 0, 'held', held, 'reserve', held, 'pixels', ARGV[8],
  'result_seconds', ARGV[9], 'failure_seconds', ARGV[10])
rq_create({id = id, queue = queue, data = ARGV[13], created = ARGV[14], result_seconds = ARGV[9],
  failure_seconds = ARGV[10]})
account(held, 1)
redis.call('RPUSH', 'rq:queue:' .. queue, id)
enter(queue)
ring(queue)
return {'created', 'queued'}
