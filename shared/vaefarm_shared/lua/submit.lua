-- Put one job on its queue, at most once: repeating the call with the same arguments changes nothing.
-- KEYS: 1 record, 2 tombstone, 3 lease, 4 RQ's job hash, 5 RQ's set of queues, 6 RQ's queue list,
--       7 index of non-empty queues, 8 latent (used when the latent's bytes are given)
-- ARGV: 1 id, 2 request hash, 3 spec, 4 queue name, 5 latent reference, 6 latent bytes or '', 7 doorbell channel,
--       8 RQ key prefix, 9... fields and values of RQ's job hash
-- Returns {verdict, status}: verdict is 'created', 'same' or 'conflict'.
local held = redis.call('HMGET', KEYS[1], 'request_hash', 'status', 'queue')
local request_hash, status = held[1], held[2]
if not status then
  local tombstone = redis.call('GET', KEYS[2])
  if tombstone then
    request_hash, status = cjson.decode(tombstone).request_hash, 'expired'
  end
end
if status then
  if request_hash ~= ARGV[2] then return {'conflict', status} end
  if status == 'queued' or status == 'started' or status == 'finished' then return {'same', status} end
end
-- A script that has written once may go on beyond maxmemory. So the first write is one that a full Redis refuses:
-- the submit is refused whole, and nothing was touched.
redis.call('SADD', KEYS[5], KEYS[6])
if held[3] then redis.call('ZREM', ARGV[8] .. ':failed:' .. held[3], ARGV[1]) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if ARGV[6] ~= '' then redis.call('SET', KEYS[8], ARGV[6]) end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'spec', ARGV[3], 'status', 'queued', 'queue', ARGV[4], 'request_hash', ARGV[2],
  'latent', ARGV[5], 'queued_at', string.format('%d.%06d', now[1], now[2]), 'attempts', 0)
local fields = {}
for i = 9, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[4], unpack(fields))
redis.call('RPUSH', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[7], 'NX', 0, ARGV[4])
redis.call('PUBLISH', ARGV[7], ARGV[4])
return {'created', 'queued'}
