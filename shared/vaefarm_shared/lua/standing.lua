-- Where a queued job stands, and what is before it. Changes nothing.
-- ARGV: 1 id
-- Returns nothing when it waits on no queue of ours, else {position or '', entries of its queue, '1' when its VAE is
--          paused, {queue, entries, ...}: the queues of its VAE and priority and of the priorities before, its own too;
--          {size, seconds, ...}: what a job of each size takes the device, where that is known}.
--@ lib
local MOST_QUEUES, PRIORITIES = 256, {'high', 'normal', 'low'}
local record = redis.call('HMGET', JOB .. ARGV[1], 'status', 'queue', 'place')
local queue = record[2] or ''
local vae, priority = parts(queue)
if record[1] ~= 'queued' or not vae or redis.call('EXISTS', LEASE .. ARGV[1]) == 1 then return nil end
local length, place = redis.call('LLEN', 'rq:queue:' .. queue), number(record[3], nil)
local stands, queues, paces = '', {}, {}
if place and length > 0 then stands = math.max(1, math.min(length, position(queue, place, length))) end
for _, before in ipairs(PRIORITIES) do
  for _, name in ipairs(redis.call('ZRANGE', index_of(vae, before), 0, MOST_QUEUES - 1)) do
    queues[#queues + 1], queues[#queues + 2] = name, redis.call('LLEN', 'rq:queue:' .. name)
  end
  if before == priority then break end
end
for _, size in ipairs(SIZES) do
  local pace = redis.call('HGET', 'vaefarm:pace', vae .. ':' .. size)
  if pace then paces[#paces + 1], paces[#paces + 2] = size, pace end
end
return {stands, length, tostring(redis.call('SISMEMBER', 'vaefarm:paused', vae)), queues, paces}
