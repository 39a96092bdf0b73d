-- Take the first of some devices that nobody has, and that is not quarantined.
-- ARGV: 1 lease seconds, 2 token, 3 worker, then the devices
-- Returns the device; '' when there is none. Again with the same token: the one that was taken.
--@ lib
--@ devices
must_write()
local token = ARGV[2]
local mine = entry_of(redis.call('HGET', DEVICES, token))
if lasts(mine) then return mine.device end
local taken, all = {}, redis.call('HGETALL', DEVICES)
for place = 1, #all, 2 do
  local entry = entry_of(all[place + 1])
  if lasts(entry) then taken[entry.device] = true else redis.call('HDEL', DEVICES, all[place]) end
end
for place = 4, #ARGV do
  local device = ARGV[place]
  if not taken[device] and redis.call('HEXISTS', QUARANTINE, device) == 0 then
    write(token, device, ARGV[3], false, nil, tonumber(ARGV[1]))
    return device
  end
end
return ''
