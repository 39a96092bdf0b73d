-- Take workers that died off RQ's lists: their entries are gone, RQ's and ours, their names would stay for ever. What decoded
-- for us, and whose death nobody noted, as where its machine went with it, is noted here.
-- ARGV: 1 seconds for which an entry outlives the last sign of life, 2 deaths that are kept, 3 seconds for how long; then
-- queues that they may have listened to. How many there were.
local DEATHS, gone = 'vaefarm:deaths', 0
for _, key in ipairs(redis.call('SMEMBERS', 'rq:workers')) do
  local name = string.gsub(key, '^rq:worker:', '')
  if redis.call('EXISTS', key, 'vaefarm:worker:' .. name) == 0 then
    gone = gone + 1
    redis.call('SREM', 'rq:workers', key)
    local ours = 0
    for place = 4, #ARGV do
      ours = ours + redis.call('SREM', 'rq:workers:' .. ARGV[place], key)
    end
    if ours > 0 then
      local now = redis.call('TIME')
      redis.call('ZADD', DEATHS, 'NX', now[1] + now[2] / 1000000 - ARGV[1], name)
      redis.call('ZREMRANGEBYRANK', DEATHS, 0, -ARGV[2] - 1)
      redis.call('EXPIRE', DEATHS, ARGV[3])
    end
  end
end
return gone
