-- Take jobs from the queues behind several indexes, best index first, and lease each in the same step: there is no
-- moment at which a claimed job is in no list and has no lease. Within an index the lane that was served least is next.
-- An idle worker has small latents come with their jobs, and a job that comes alone begin at once: it would ask for
-- nothing else in between.
-- ARGV: 1 most jobs, 2 most pixels, 3 lease seconds, 4 token stem, 5 worker, 6 most bytes of latents, 7 RQ's date where a
--       job that comes alone, with its latent, begins at once, else '', 8 number of plain queues, 9... plain queues,
--       then for each index: vae, priority, device seconds for each pixel, size classes (',s,m,')
-- Returns {time, how many entries nobody waits for were dropped, {id, queue, token, cost, spec, latent, queued_at,
--          attempts, alone, the latent's bytes or '', the attempt that begins or '', data, data bytes, meta bytes, hook,
--          ...}, ...}.
--@ lib
--@ rq_begin
--@ begin_one
--@ previews
local MOST_TRIES, MOST_LANES, MOST_SPEC, MOST_DATA = 1000, 256, 262144, 32768
local most, pixels_left, stem, worker = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4], ARGV[5]
local ends = TIME + ARGV[3]
local bytes_left = tonumber(ARGV[6])
local taken, tries, dropped, due = {STAMP, 0}, 0, 0, {}
if redis.call('EXISTS', 'rq:suspended') == 1 then return taken end

local function room() return #taken - 2 < most and pixels_left > 0 and tries < MOST_TRIES end

-- The record of an id that nobody holds and whose job still waits, or nil. An outsider's id gets a record, so that it
-- ends like any other; a key that is no hash is nobody's job.
local function waiting(id, queue)
  if #id == 0 or #id > 100 or string.find(id, '[^%w_-]') then return nil end
  if redis.call('EXISTS', LEASE .. id) == 1 then return nil end
  local record = redis.pcall('HMGET', JOB .. id, 'status', 'pixels', 'avoid', 'spec', 'latent', 'queued_at', 'attempts',
    'alone')
  if record.err then return nil end
  if is_preview(id) then
    local status = redis.call('HGET', JOB .. job_of_preview(id), 'status')
    -- A worker of the release before has ended its job.
    if status and status ~= 'queued' and status ~= 'started' then drop_preview(id, true) return nil end
    if not record[1] then return nil end
  end
  if not record[1] then
    -- The entry of one that was canceled in bulk and is past its life.
    if redis.call('EXISTS', TOMBSTONE .. id) == 1 then return nil end
    redis.call('HSET', JOB .. id, 'status', 'queued', 'queue', queue, 'queued_at', STAMP, 'attempts', 0)
    account(0, 1)
    record[6], record[7] = STAMP, '0'
  elseif record[1] ~= 'queued' then return nil end
  return record
end

-- The bytes of a latent that lies in Redis, where they are few enough; else ''.
local function bytes_of(reference)
  local key = bytes_left > 0 and blob_key(reference)
  local size = key and redis.pcall('STRLEN', key)
  if type(size) ~= 'number' or size == 0 or size > bytes_left then return '' end
  bytes_left = bytes_left - size
  return redis.call('GET', key)
end

local function lease(id, queue, cost, record)
  local token = stem .. '-' .. (#taken - 1)
  redis.call('SET', LEASE .. id, token)
  redis.call('ZADD', LEASES, ends, id)
  local rq_key = 'rq:job:' .. id
  local sized = {redis.pcall('HSTRLEN', rq_key, 'data'), redis.pcall('HSTRLEN', rq_key, 'meta')}
  local rq = {}
  if type(sized[1]) == 'number' and sized[1] <= MOST_DATA then
    rq = redis.call('HMGET', rq_key, 'data', 'success_callback_name', 'failure_callback_name',
      'stopped_callback_name', 'webhooks')
  end
  local spec = record[4] and #record[4] <= MOST_SPEC and record[4] or ''
  taken[#taken + 1] = {id, queue, token, tostring(cost), spec, record[5] or '', record[6] or '', record[7] or '',
    record[8] or '', record[5] and bytes_of(record[5]) or '', '', rq[1] or '', tonumber(sized[1]) or 0, tonumber(sized[2]) or 0, rq[2] or '', rq[3] or '',
    rq[4] or '', rq[5] or ''}
end

-- The first job of a queue that this worker may have: its cost in pixels, or nil. What it must not have is put aside.
local function take(queue, aside, seconds_per_pixel)
  while tries < MOST_TRIES do
    -- The pop comes first: after it the lease is written even in a Redis that is full.
    local id = redis.call('LPOP', 'rq:queue:' .. queue)
    if not id then return nil end
    tries = tries + 1
    local record = waiting(id, queue)
    if record and record[3] and string.find(record[3], ',' .. worker .. ',', 1, true) then
      aside[#aside + 1] = id
      if #aside >= 32 then return nil end
    elseif record then
      aside.passed = #aside > 0
      local pixels = number(record[2], 1)
      local cost = pixels * seconds_per_pixel
      lease(id, queue, cost, record)
      pixels_left = pixels_left - pixels
      return cost
    else
      aside.passed = #aside > 0
      dropped = dropped + 1
    end
  end
end

local function put_back(queue, aside)
  for place = #aside, 1, -1 do
    -- What was taken from behind them makes their places other ones.
    if aside.passed then push_front(queue, aside[place])
    else redis.call('LPUSH', 'rq:queue:' .. queue, aside[place]) end
  end
end

local function take_from_index(vae, priority, seconds_per_pixel, sizes)
  local index = index_of(vae, priority)
  local lanes, asides, from = {}, {}, 0
  repeat
    local listed = redis.call('ZRANGE', index, from, from + MOST_LANES - 1, 'WITHSCORES')
    for place = 1, #listed, 2 do
      local _, _, size, lane = parts(listed[place])
      if size and string.find(sizes, ',' .. size .. ',', 1, true) then
        lanes[#lanes + 1] = {queue = listed[place], lane = lane, score = tonumber(listed[place + 1])}
        asides[listed[place]] = {}
      end
    end
    from = from + MOST_LANES
  until #listed < 2 * MOST_LANES or #lanes >= MOST_LANES
  while room() and #lanes > 0 do
    local least = 1
    for place = 2, #lanes do if lanes[place].score < lanes[least].score then least = place end end
    local chosen = lanes[least]
    local cost = take(chosen.queue, asides[chosen.queue], seconds_per_pixel)
    if cost then
      due[chosen.queue] = (due[chosen.queue] or 0) + cost
      for _, one in ipairs(lanes) do if one.lane == chosen.lane then one.score = one.score + cost end end
    else table.remove(lanes, least) end
  end
  for queue, aside in pairs(asides) do
    put_back(queue, aside)
    if redis.call('EXISTS', 'rq:queue:' .. queue) == 0 then
      redis.call('ZREM', index, queue)
      forget_places(queue)
    end
  end
end

local plain = tonumber(ARGV[8])
for place = 9 + plain, #ARGV, 4 do
  local vae = ARGV[place]
  if room() and redis.call('SISMEMBER', 'vaefarm:paused', vae) == 0 then
    take_from_index(vae, ARGV[place + 1], tonumber(ARGV[place + 2]), ARGV[place + 3])
  end
end
for place = 9, 8 + plain do
  local aside = {}
  if redis.call('SISMEMBER', 'vaefarm:paused', vae_of(ARGV[place])) == 0 then
    while room() and take(ARGV[place], aside, 0) do end
  end
  put_back(ARGV[place], aside)
end
for queue, seconds in pairs(due) do charge(queue, seconds) end
taken[2] = dropped
local alone = #taken == 3 and taken[3]
-- Not what must be alone on the device, or in time: that is for a begin of its own, when the device has it. Until then a
-- worker that dies, or never hears of this claim, costs the job nothing: as if it shared the device.
if alone and ARGV[7] ~= '' and alone[5] ~= '' and alone[9] ~= '1' and alone[10] ~= ''
  and not string.find(alone[5], '"deadline_seconds"', 1, true) then
  alone[11] = begin_one(alone[1], alone[3], alone[3], '', worker, ARGV[7], '1')
end
return taken
