-- Give back the budget of pictures and latents whose life is over.
-- ARGV: 1 most entries
-- Returns how many there were.
--@ lib
local over = redis.call('ZRANGEBYSCORE', KEPT, '-inf', TIME, 'LIMIT', 0, ARGV[1])
local bytes = 0
for _, entry in ipairs(over) do
  bytes = bytes + number(string.match(entry, ':(%d+)$'), 0)
  redis.call('ZREM', KEPT, entry)
end
account(-bytes, 0)
return #over
