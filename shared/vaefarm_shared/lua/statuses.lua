-- How jobs stand. Changes nothing.
-- ARGV: ids
-- Returns for each its status; 'expired' when its record lived out its life, and the tombstone says that there was one;
--         '' when nobody knows it.
local statuses = {}
for place, id in ipairs(ARGV) do
  local status = redis.call('HGET', 'vaefarm:job:' .. id, 'status')
  statuses[place] = status or (redis.call('EXISTS', 'vaefarm:tombstone:' .. id) == 1 and 'expired' or '')
end
return statuses
