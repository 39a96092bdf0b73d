-- Take up to n jobs from the queues behind several indexes, in the order given, and lease each in the same step:
-- there is no moment at which a claimed job is in no list and has no lease.
-- KEYS: 1 leases, 2 RQ's suspension flag, 3... indexes of non-empty queues, best first
-- ARGV: 1 n, 2 lease seconds, 3 token stem, 4 record prefix, 5 lease prefix, 6 RQ queue prefix, 7... plain queues
-- Returns {time, {id, queue, token}, ...}.
local now = redis.call('TIME')
local time = string.format('%d.%06d', now[1], now[2])
local taken = {time}
local wanted = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then return taken end

-- An id is claimable when it is one, nobody holds it, and its job still waits.
local function claimable(id, queue)
  if #id == 0 or #id > 100 or string.find(id, '[^%w_-]') then return false end
  if redis.call('EXISTS', ARGV[5] .. id) == 1 then return false end
  local status = redis.pcall('HGET', ARGV[4] .. id, 'status')
  -- An error reply is a table: the key is no hash, so no producer of ours wrote it.
  if type(status) == 'table' then return false end
  if status then return status == 'queued' end
  -- No producer of ours wrote it: it gets a record, so that it ends like any other job.
  redis.call('HSET', ARGV[4] .. id, 'status', 'queued', 'queue', queue, 'queued_at', time, 'attempts', 0)
  return true
end

local function take_from(queue)
  while #taken <= wanted do
    -- The pop comes first: after it the lease is written even in a Redis that is full.
    local id = redis.call('LPOP', ARGV[6] .. queue)
    if not id then return true end
    if claimable(id, queue) then
      local token = ARGV[3] .. '-' .. #taken
      redis.call('SET', ARGV[5] .. id, token)
      redis.call('ZADD', KEYS[1], time + ARGV[2], id)
      taken[#taken + 1] = {id, queue, token}
    end
  end
  return redis.call('EXISTS', ARGV[6] .. queue) == 0
end

for i = 3, #KEYS do
  for _, queue in ipairs(redis.call('ZRANGE', KEYS[i], 0, -1)) do
    if #taken > wanted then return taken end
    if take_from(queue) then redis.call('ZREM', KEYS[i], queue) end
  end
end
for i = 7, #ARGV do take_from(ARGV[i]) end
return taken
