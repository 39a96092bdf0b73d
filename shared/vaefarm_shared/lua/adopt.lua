-- Move a plain RQ job of our kind to the queue of its VAE, priority, size and lane, in the name of its claim.
-- ARGV: 1 id, 2 token, 3 request hash, 4 spec, 5 queue, 6 latent reference, 7 bytes that the job holds, 8 pixels,
--       9 result seconds, 10 failure seconds, 11 RQ's data, 12 webhook or ''
-- Returns 'adopted' or 'lost'.
--@ lib
local id, queue = ARGV[1], ARGV[5]
if not owns(id, ARGV[2]) then return 'lost' end
must_write()
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
local _, place = push(queue, id)
redis.call('HSET', JOB .. id, 'spec', ARGV[4], 'queue', queue, 'request_hash', ARGV[3], 'latent', ARGV[6],
  'held', ARGV[7], 'reserve', ARGV[7], 'pixels', ARGV[8], 'result_seconds', ARGV[9], 'failure_seconds', ARGV[10],
  'place', place)
if ARGV[12] ~= '' then redis.call('HSET', JOB .. id, 'webhook', ARGV[12]) end
redis.call('HSET', 'rq:job:' .. id, 'origin', queue, 'data', ARGV[11])
local latent = blob_key(ARGV[6])
if latent then redis.call('PERSIST', latent) end
account(tonumber(ARGV[7]), 0)
redis.call('DEL', LEASE .. id)
redis.call('ZREM', LEASES, id)
enter(queue)
ring(queue)
tell(id, 'queued')
return 'adopted'
