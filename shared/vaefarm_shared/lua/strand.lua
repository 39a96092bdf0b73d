-- Take these jobs off a queue and lease them, so that a settle can end them; those that somebody took meanwhile stay his.
-- ARGV: 1 queue, 2 token stem, 3 lease seconds, 4... ids
-- Returns {id, token} for each that was taken.
--@ lib
must_write()
local taken = {}
for place = 4, #ARGV do
  local id = ARGV[place]
  local waits = redis.call('EXISTS', LEASE .. id) == 0 and redis.call('HGET', JOB .. id, 'status') == 'queued'
  if waits and pull(ARGV[1], id, 1) == 1 then
    local token = ARGV[2] .. '-' .. place
    redis.call('SET', LEASE .. id, token)
    redis.call('ZADD', LEASES, TIME + ARGV[3], id)
    taken[#taken + 1] = {id, token}
  end
end
return taken
