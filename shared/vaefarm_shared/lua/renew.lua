-- Move the ends of leases that still bear their claim's token.
-- ARGV: 1 seconds from now, then for each: id, token
-- Returns how many were renewed.
--@ lib
must_write()
local renewed = 0
for place = 2, #ARGV, 2 do
  if owns(ARGV[place], ARGV[place + 1]) then
    redis.call('ZADD', LEASES, 'XX', TIME + ARGV[1], ARGV[place])
    renewed = renewed + 1
  end
end
return renewed
