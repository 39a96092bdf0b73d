-- Write what became of a delivery, unless its job has ended anew since.
-- ARGV: 1 id, 2 the end that it tells of, 3 seconds until the next try, '' for none
-- Returns 1 when it took effect.
--@ lib
local key = WEBHOOK .. ARGV[1]
if redis.call('HGET', key, 'ended_at') ~= ARGV[2] then return 0 end
must_write()
if ARGV[3] ~= '' then redis.call('ZADD', WEBHOOKS, 'XX', TIME + ARGV[3], ARGV[1])
else
  redis.call('DEL', key)
  redis.call('ZREM', WEBHOOKS, ARGV[1])
end
return 1
