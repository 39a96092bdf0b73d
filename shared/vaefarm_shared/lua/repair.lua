-- Correct the counted bytes, unless they moved since they were read.
-- ARGV: 1 what they were, 2 what to add
-- Returns 1 when it took effect.
--@ lib
if (redis.call('HGET', BUDGET, 'bytes') or '0') ~= ARGV[1] then return 0 end
account(tonumber(ARGV[2]), 0)
return 1
