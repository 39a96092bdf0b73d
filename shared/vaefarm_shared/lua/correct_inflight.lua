-- Correct how many of an owner's jobs have not ended, unless that moved since it was read.
-- ARGV: 1 owner, 2 what it was, 3 what it is
-- Returns 1 when it took effect.
--@ lib
if (redis.call('HGET', INFLIGHT, ARGV[1]) or '0') ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then redis.call('HDEL', INFLIGHT, ARGV[1])
else redis.call('HSET', INFLIGHT, ARGV[1], ARGV[3]) end
return 1
