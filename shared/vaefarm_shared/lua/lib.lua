-- What every script shares. Keys: vaefarm_shared/keys.py.
local JOB, TOMBSTONE, LEASE, BLOB = 'vaefarm:job:', 'vaefarm:tombstone:', 'vaefarm:lease:', 'vaefarm:'
local LEASES, BUDGET, KEPT, DEPENDENTS = 'vaefarm:leases', 'vaefarm:budget', 'vaefarm:kept', 'vaefarm:dependents'
local EVENTS, MOST_EVENTS = 'vaefarm:events', 50000
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

local function ring(queue) redis.call('PUBLISH', 'vaefarm:doorbell:' .. vae_of(queue), queue) end

-- The key of a latent or picture in Redis; nil for what lies elsewhere, and for any other key that somebody names.
local function blob_key(reference)
  local name = string.match(reference, '^redis:(latent:[%w_.-]+)$') or string.match(reference, '^redis:(image:[%w_.-]+)$')
  return name and BLOB .. name or nil
end

-- Bytes of a blob that lies in Redis; nil for one that is gone, 0 for one that lies elsewhere.
local function size_of(reference)
  local key = blob_key(reference)
  if not key then return 0 end
  local bytes = redis.call('STRLEN', key)
  return bytes > 0 and bytes or nil
end

-- The budget: bytes held by jobs, and how many jobs have not ended. A job's record says what it holds; what outlives
-- its job is listed in KEPT until it expires.
local function account(bytes, jobs)
  if bytes ~= 0 then redis.call('HINCRBY', BUDGET, 'bytes', bytes) end
  if jobs ~= 0 then redis.call('HINCRBY', BUDGET, 'jobs', jobs) end
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

-- The ends of a job that RQ's side does not show. `life`: seconds that its record stays.
local function finish_record(v, status, reason, life, kept)
  local fields = {'status', status, 'ended_at', STAMP, 'held', kept}
  if reason ~= '' then fields[#fields + 1] = 'reason'; fields[#fields + 1] = reason end
  redis.call('HSET', JOB .. v.id, unpack(fields))
  redis.call('HDEL', JOB .. v.id, 'execution', 'started_with', 'shared', 'alone', 'avoid')
  redis.call('EXPIRE', JOB .. v.id, life)
  bury(v, status, reason ~= '' and reason or nil, life + TOMBSTONE_SECONDS)
  local latent = blob_key(v.latent or '')
  if latent and status == 'failed' then redis.call('EXPIRE', latent, life)
  elseif latent then redis.call('DEL', latent) end
  if status ~= 'finished' then forget_pictures(v.id) end
  redis.call('DEL', LEASE .. v.id)
  redis.call('ZREM', LEASES, v.id)
  account(kept - v.held, -1)
  keep(v.id, kept, life)
  if redis.call('EXISTS', 'rq:job:' .. v.id .. ':dependents') == 1 then
    redis.call('SADD', DEPENDENTS, v.id .. ' ' .. v.queue)
  end
  redis.call('PUBLISH', 'vaefarm:done:' .. v.id, status)
  tell(v.id, status, v.owner)
end

-- What a script needs to know of a job, in one read.
local function read_job(id)
  local f = redis.call('HMGET', JOB .. id, 'status', 'queue', 'request_hash', 'latent', 'held', 'attempts',
    'execution', 'worker', 'shared', 'started_with', 'token', 'result_seconds', 'failure_seconds', 'owner')
  return {
    id = id, status = f[1], queue = f[2] or '', request_hash = f[3], latent = f[4], held = number(f[5], 0),
    attempts = number(f[6], 0), execution = f[7], worker = f[8] or '', shared = f[9] == '1', started_with = f[10],
    token = f[11], result_seconds = number(f[12], 86400), failure_seconds = number(f[13], 604800), owner = f[14],
    time = TIME,
  }
end
