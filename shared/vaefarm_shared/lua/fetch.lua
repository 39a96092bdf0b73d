-- A job's record and, where they lie in Redis and are not large, the pictures that its report names. Changes nothing.
-- ARGV: 1 id, 2 most bytes of all its pictures
-- Returns {the record's fields and values, {reference, bytes, ...}}, without pictures where they are more.
local record = redis.call('HGETALL', 'vaefarm:job:' .. ARGV[1])
local report, pictures, size = '', {}, 0
for place = 1, #record, 2 do
  if record[place] == 'report' then report = record[place + 1] end
end
for reference in string.gmatch(report, '"(redis:image:[%w_.-]+)"') do
  local key = 'vaefarm:' .. string.sub(reference, #'redis:' + 1)
  size = size + redis.call('STRLEN', key)
  if size > tonumber(ARGV[2]) then return {record, {}} end
  pictures[#pictures + 1], pictures[#pictures + 2] = reference, redis.call('GET', key) or ''
end
return {record, pictures}
