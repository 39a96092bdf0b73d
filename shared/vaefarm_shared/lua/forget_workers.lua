-- Take workers that died off RQ's lists: their entries are gone, RQ's and ours, their names would stay for ever. ARGV:
-- queues that they may have listened to. How many there were.
local gone = 0
for _, key in ipairs(redis.call('SMEMBERS', 'rq:workers')) do
  local described = 'vaefarm:worker:' .. string.sub(key, #'rq:worker:' + 1)
  if redis.call('EXISTS', key, described) == 0 then
    gone = gone + 1
    redis.call('SREM', 'rq:workers', key)
    for _, queue in ipairs(ARGV) do
      redis.call('SREM', 'rq:workers:' .. queue, key)
    end
  end
end
return gone
