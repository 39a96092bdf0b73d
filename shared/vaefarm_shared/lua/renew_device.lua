-- Move the end of a lease on a device; one that has ended begins anew unless another has taken the device.
-- ARGV: 1 lease seconds, or '' only to ask, 2 token, 3 device, 4 worker, 5 '1' when it is shared on purpose
-- Returns {1} while the device is the worker's, else {0, who has it}.
--@ lib
--@ devices
must_write()
local token, device, shared = ARGV[2], ARGV[3], ARGV[5] == '1'
local mine = entry_of(redis.call('HGET', DEVICES, token))
if not lasts(mine) and not shared then
  for _, entry in ipairs(others(token)) do
    if entry.device == device and not entry.shared then return {0, entry.worker} end
  end
end
if ARGV[1] ~= '' then write(token, device, ARGV[4], shared, mine and mine.since, tonumber(ARGV[1])) end
return {1}
