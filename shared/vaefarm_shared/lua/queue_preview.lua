--@ previews
-- Queue a preview; one that waits is replaced where it stands. `p`: id, hash, spec, queue, latent (reference), held, pixels,
-- seconds, data, created, owner ('' for the admin), the latent's bytes, '' where they lie elsewhere, and `is_last`: whether
-- it comes with its job, and nobody would send it again: one that a worker has is taken from it.
-- Returns 'queued', 'same' where it was queued or made before, or 'busy' while a worker has one; and the reference of
-- the latent that was replaced.
local function queue_preview(p)
  local key, before = JOB .. p.id, read_job(p.id)
  if before.status and (before.owner or '') ~= p.owner then
    drop_preview(p.id)
    before = {}
  end
  if before.status and before.request_hash == p.hash then return 'same', '' end
  if before.status and redis.call('EXISTS', LEASE .. p.id) == 1 then
    if not p.is_last then return 'busy', '' end
    give_up_preview(before)
    before = read_job(p.id)
  end
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. p.queue)
  local waits, held = before.status == 'queued', p.held
  local length, place
  local replaced = waits and before.latent or ''
  if waits then
    if blob_key(replaced) then redis.call('DEL', blob_key(replaced)) end
    held = held + number(redis.call('HGET', key, 'shown'), 0)
    account(held - before.held, 0)
    if before.queue ~= p.queue then pull(before.queue, p.id, 1) end
  elseif before.status then
    held = held + before.held
    rq_forget(before)
    -- What is shown is held still, unless its life was over and the reaper gave it back.
    if redis.call('ZREM', KEPT, p.id .. ':' .. before.held) == 0 then account(before.held, 0) end
    account(p.held, 1, p.owner ~= '' and p.owner)
    redis.call('HDEL', key, 'token', 'started_at', 'ended_at', 'reason', 'worker')
    redis.call('PERSIST', key)
  else
    account(p.held, 1, p.owner ~= '' and p.owner)
    redis.call('DEL', TOMBSTONE .. p.id)
  end
  if p.bytes ~= '' then redis.call('SET', blob_key(p.latent), p.bytes) end
  redis.call('HSET', key, 'spec', p.spec, 'status', 'queued', 'queue', p.queue, 'request_hash', p.hash, 'latent',
    p.latent, 'queued_at', STAMP, 'attempts', 0, 'held', held, 'reserve', held, 'pixels', p.pixels, 'result_seconds',
    p.seconds, 'failure_seconds', p.seconds)
  redis.call('HDEL', key, 'avoid', 'alone', 'last_error')
  if p.owner ~= '' then redis.call('HSET', key, 'owner', p.owner) end
  redis.call('ZADD', PREVIEWS, TIME + p.seconds, p.id)
  if waits and before.queue == p.queue then return 'queued', replaced end
  length, place = push(p.queue, p.id)
  redis.call('HSET', key, 'place', place)
  rq_create({id = p.id, queue = p.queue, data = p.data, created = p.created, result_seconds = p.seconds,
    failure_seconds = p.seconds})
  enter(p.queue)
  if length == 1 then ring(p.queue) end
  if not waits then tell(p.id, 'queued', p.owner ~= '' and p.owner) end
  return 'queued', replaced
end
