-- Give back the budget of pictures and latents whose life is over, and drop previews that were not made within theirs.
-- ARGV: 1 most entries
-- Returns how many there were.
--@ lib
--@ previews
local over = redis.call('ZRANGEBYSCORE', KEPT, '-inf', TIME, 'LIMIT', 0, ARGV[1])
local bytes = 0
for _, entry in ipairs(over) do
  bytes = bytes + number(string.match(entry, ':(%d+)$'), 0)
  redis.call('ZREM', KEPT, entry)
end
account(-bytes, 0)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREVIEWS, '-inf', TIME, 'LIMIT', 0, ARGV[1])) do
  -- A worker of the release before has finished it.
  if redis.call('HGET', JOB .. id, 'status') == 'finished' then redis.call('ZREM', PREVIEWS, id)
  else drop_preview(id) end
end
return #over
