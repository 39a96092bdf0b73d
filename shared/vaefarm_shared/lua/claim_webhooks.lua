-- Take webhooks that are due. Each is due again after a while, should whoever takes it say nothing more.
-- ARGV: 1 most, 2 seconds until they are due again
-- Returns {id, field, value, ...} for each.
--@ lib
must_write()
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', TIME, 'LIMIT', 0, ARGV[1])) do
  local key = WEBHOOK .. id
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', WEBHOOKS, id)
  else
    redis.call('HINCRBY', key, 'attempts', 1)
    redis.call('ZADD', WEBHOOKS, TIME + ARGV[2], id)
    taken[#taken + 1] = {id, unpack(redis.call('HGETALL', key))}
  end
end
return taken
