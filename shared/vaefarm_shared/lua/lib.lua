-- What every script shares. Keys: vaefarm_shared/keys.py.
local JOB, TOMBSTONE, LEASE, BLOB = 'vaefarm:job:', 'vaefarm:tombstone:', 'vaefarm:lease:', 'vaefarm:'
local LEASES, BUDGET, KEPT, DEPENDENTS = 'vaefarm:leases', 'vaefarm:budget', 'vaefarm:kept', 'vaefarm:dependents'
local ENDED, LOST = 'vaefarm:ended', 'vaefarm:lost'
local FAILURES, MOST_FAILURES = 'vaefarm:failures', 100
local EVENTS, MOST_EVENTS = 'vaefarm:events', 50000
local INFLIGHT, PUSHED, GAPS, MOST_GAPS = 'vaefarm:inflight', 'vaefarm:pushed', 'vaefarm:gaps:', 1000
local WEBHOOKS, WEBHOOK, WEBHOOK_SECONDS = 'vaefarm:webhooks', 'vaefarm:webhook:', 259200
local SIZES = {'s', 'm', 'l', 'xl'}
local TOMBSTONE_SECONDS = 604800

local clock = redis.call('TIME')
local TIME = clock[1] + clock[2] / 1e6
local STAMP = string.format('%d.%06d', clock[1], clock[2])

-- A Redis at maxmemory refuses a script's first write if that one needs memory, and none after it. What must not be
-- refused, since it ends or hands on what was acknowledged, begins with this.
local function must_write() redis.call('DEL', 'vaefarm:none') end

-- A number out of a record, which anyone may have garbled.
local function number(text, default)
  local found = tonumber(text or '')
  return found and math.abs(found) < 1e15 and found or default
end

-- A preview is a job of its own under its job's id and this.
local SUFFIX = '--preview'
local function is_preview(id) return string.sub(id, -#SUFFIX) == SUFFIX end
local function job_of_preview(id) return string.sub(id, 1, -#SUFFIX - 1) end

local function owns(id, token) return token ~= '' and redis.call('GET', LEASE .. id) == token end

-- VAE, priority, size class, lane of one of our queues; nothing for a plain one.
local function parts(queue) return string.match(queue, '^vaefarm%.([%w_-]+)%.([%w_-]+)%.([%w_-]+)%.([%w_-]+)$') end

local function index_of(vae, priority) return 'vaefarm:queues:' .. vae .. ':' .. priority end

local function vae_of(queue) return string.match(queue, '^vaefarm%.([%w_-]+)') or '' end

-- Enter a queue into its index, with what its lane has been served; a new lane starts where the least served stands.
local function enter(queue)
  local vae, priority, _, lane = parts(queue)
  if not vae then return end
  local index = index_of(vae, priority)
  if redis.call('ZSCORE', index, queue) then return end
  local score
  for _, size in ipairs(SIZES) do
    local beside = table.concat({'vaefarm', vae, priority, size, lane}, '.')
    score = score or redis.call('ZSCORE', index, beside)
  end
  if not score then score = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2] or 0 end
  redis.call('ZADD', index, score, queue)
end

-- Add device seconds to every queue of a lane: they share one account.
local function charge(queue, seconds)
  local vae, priority, _, lane = parts(queue)
  if not vae or seconds == 0 then return end
  local index = index_of(vae, priority)
  for _, size in ipairs(SIZES) do
    redis.call('ZADD', index, 'XX', 'INCR', seconds, table.concat({'vaefarm', vae, priority, size, lane}, '.'))
  end
end

-- A job's place counts the pushes on its queue since that was last empty, its own too. Its position is its place less
-- what left: as many as were pushed and are not in the list, but for the gaps, the places that left from behind it.
local function forget_places(queue)
  redis.call('HDEL', PUSHED, queue)
  redis.call('DEL', GAPS .. queue)
end

local function first_place(queue)
  redis.call('HSET', PUSHED, queue, 1)
  redis.call('DEL', GAPS .. queue)
  return 1
end

local function position(queue, place, length)
  local behind = redis.call('ZCOUNT', GAPS .. queue, '(' .. place, '+inf')
  return place - number(redis.call('HGET', PUSHED, queue), 0) + length + behind
end

-- Push a job at the back of its queue; return the list's length and the job's place.
local function push(queue, id)
  local length = redis.call('RPUSH', 'rq:queue:' .. queue, id)
  return length, length == 1 and first_place(queue) or redis.call('HINCRBY', PUSHED, queue, 1)
end

-- Push a job at the front of its queue, and write its place.
local function push_front(queue, id)
  local list = 'rq:queue:' .. queue
  if not parts(queue) then return redis.call('LPUSH', list, id) end
  local head = redis.call('LINDEX', list, 0)
  local length = redis.call('LPUSH', list, id)
  local place = length == 1 and first_place(queue)
  if not place then
    local second = number(redis.call('HGET', JOB .. head, 'place'), nil)
    -- The head may be the entry of a job that was canceled, and queued anew at the back.
    if second and position(queue, second, length) == 2 then
      place = second - 1
      -- From before the head: they counted for nobody, and must not for this one.
      redis.call('ZREMRANGEBYSCORE', GAPS .. queue, '-inf', second)
    else place = number(redis.call('HGET', PUSHED, queue), 0) - length + 1 end
  end
  redis.call('HSET', JOB .. id, 'place', place)
end

-- Take a job off its queue out of its turn, all its entries or one; return how many there were.
local function pull(queue, id, most)
  local list = 'rq:queue:' .. queue
  local pulled = redis.call('LREM', list, most, id)
  if pulled == 0 then return 0 end
  if redis.call('EXISTS', list) == 0 then forget_places(queue) return pulled end
  local place = number(redis.call('HGET', JOB .. id, 'place'), nil)
  if place then
    redis.call('ZADD', GAPS .. queue, place, place .. ':' .. STAMP)
    -- The lowest are those before the head, which count for nobody any more.
    redis.call('ZREMRANGEBYRANK', GAPS .. queue, 0, -MOST_GAPS - 1)
  end
  return pulled
end

local function ring(queue) redis.call('PUBLISH', 'vaefarm:doorbell:' .. vae_of(queue), queue) end

-- The key of a latent or picture in Redis; nil for what lies elsewhere, and for any other key that somebody names.
local function blob_key(reference)
  local name = string.match(reference, '^redis:(latent:[%w_.-]+)$') or string.match(reference, '^redis:(image:[%w_.-]+)$')
  return name and BLOB .. name or nil
end

-- Delete the pictures in Redis that a report names; false for none.
local function forget_reported(report)
  for reference in string.gmatch(report or '', '"(redis:image:[%w_.-]+)"') do redis.call('DEL', blob_key(reference)) end
end

-- Bytes of a blob that lies in Redis; nil for one that is gone, 0 for one that lies elsewhere.
local function size_of(reference)
  local key = blob_key(reference)
  if not key then return 0 end
  local bytes = redis.call('STRLEN', key)
  return bytes > 0 and bytes or nil
end

-- The budget: bytes held by jobs, and how many jobs have not ended, those of an owner other than the admin also by
-- themselves. A job's record says what it holds; what outlives its job is listed in KEPT until it expires.
local function account(bytes, jobs, owner)
  if bytes ~= 0 then redis.call('HINCRBY', BUDGET, 'bytes', bytes) end
  if jobs ~= 0 then redis.call('HINCRBY', BUDGET, 'jobs', jobs) end
  if jobs ~= 0 and owner and redis.call('HINCRBY', INFLIGHT, owner, jobs) <= 0 then
    redis.call('HDEL', INFLIGHT, owner)
  end
end

local function keep(id, bytes, seconds)
  if bytes > 0 then redis.call('ZADD', KEPT, math.floor(TIME + seconds), id .. ':' .. bytes) end
end

-- Give back what an ended job still holds, unless its life was over and the reaper did.
local function release(id, held)
  if held > 0 and redis.call('ZREM', KEPT, id .. ':' .. held) == 1 then account(-held, 0) end
end

-- Delete the pictures that the claim in hand has written: no record will name them.
local function forget_pictures(id)
  local token, place = redis.call('GET', LEASE .. id), 0
  if not token then return end
  while redis.call('DEL', BLOB .. 'image:' .. id .. '.' .. token .. '.' .. place) == 1 do place = place + 1 end
end

-- Tell everyone of a job's new status; `owner` is nothing where it is the admin.
local function tell(id, status, owner)
  if owner then redis.call('XADD', EVENTS, 'MAXLEN', '~', MOST_EVENTS, '*', 'id', id, 'status', status, 'owner', owner)
  else redis.call('XADD', EVENTS, 'MAXLEN', '~', MOST_EVENTS, '*', 'id', id, 'status', status) end
end

-- Leave a job's tombstone; a field of `v` that is nothing is left out.
local function bury(v, status, reason, life)
  local stone = {status = status, request_hash = v.request_hash or '', reason = reason, owner = v.owner or nil}
  redis.call('SET', TOMBSTONE .. v.id, cjson.encode(stone), 'EX', life)
end

-- Put down that somebody is to be told of a job's end. It outlives the job, and replaces what an earlier end left.
local function put_webhook(v, status, reason)
  local key = WEBHOOK .. v.id
  local good, spec = pcall(cjson.decode, redis.call('HGET', JOB .. v.id, 'spec') or '')
  local trace = good and type(spec) == 'table' and spec.traceparent
  redis.call('DEL', key)
  redis.call('HSET', key, 'url', v.webhook, 'owner', v.owner or 'admin', 'status', status, 'reason', reason,
    'ended_at', STAMP, 'attempts', 0, 'traceparent', type(trace) == 'string' and trace or '')
  redis.call('EXPIRE', key, WEBHOOK_SECONDS)
  redis.call('ZADD', WEBHOOKS, TIME, v.id)
  -- Where nobody delivers.
  redis.call('ZREMRANGEBYSCORE', WEBHOOKS, '-inf', TIME - WEBHOOK_SECONDS)
end

-- The ends of a job that RQ's side does not show. `life`: seconds that its record stays.
local function finish_record(v, status, reason, life, kept)
  local fields = {'status', status, 'ended_at', STAMP, 'held', kept}
  if reason ~= '' then fields[#fields + 1] = 'reason'; fields[#fields + 1] = reason end
  redis.call('HSET', JOB .. v.id, unpack(fields))
  redis.call('HDEL', JOB .. v.id, 'execution', 'started_with', 'shared', 'alone', 'avoid')
  redis.call('EXPIRE', JOB .. v.id, life)
  if not is_preview(v.id) then bury(v, status, reason ~= '' and reason or nil, life + TOMBSTONE_SECONDS) end
  local latent = blob_key(v.latent or '')
  if latent and status == 'failed' then redis.call('EXPIRE', latent, life)
  elseif latent then redis.call('DEL', latent) end
  if status ~= 'finished' then forget_pictures(v.id) end
  redis.call('DEL', LEASE .. v.id)
  redis.call('ZREM', LEASES, v.id)
  account(kept - v.held, -1, v.owner)
  keep(v.id, kept, life)
  if redis.call('EXISTS', 'rq:job:' .. v.id .. ':dependents') == 1 then
    redis.call('SADD', DEPENDENTS, v.id .. ' ' .. v.queue)
  end
  redis.call('HINCRBY', ENDED, vae_of(v.queue) .. ':' .. status, 1)
  if status == 'failed' then
    redis.call('ZADD', FAILURES, TIME, v.id)
    redis.call('ZREMRANGEBYRANK', FAILURES, 0, -MOST_FAILURES - 1)
  end
  redis.call('PUBLISH', 'vaefarm:done:' .. v.id, status)
  tell(v.id, status, v.owner)
  if v.webhook then put_webhook(v, status, reason) end
end

-- What a script needs to know of a job, in one read.
local function read_job(id)
  local f = redis.call('HMGET', JOB .. id, 'status', 'queue', 'request_hash', 'latent', 'held', 'attempts',
    'execution', 'worker', 'shared', 'started_with', 'token', 'result_seconds', 'failure_seconds', 'owner',
    'webhook')
  return {
    id = id, status = f[1], queue = f[2] or '', request_hash = f[3], latent = f[4], held = number(f[5], 0),
    attempts = number(f[6], 0), execution = f[7], worker = f[8] or '', shared = f[9] == '1', started_with = f[10],
    token = f[11], result_seconds = number(f[12], 86400), failure_seconds = number(f[13], 604800), owner = f[14],
    webhook = f[15], time = TIME,
  }
end
