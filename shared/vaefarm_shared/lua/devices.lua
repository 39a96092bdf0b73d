-- Who has which device: vaefarm_shared/device_locks.py. After `lib`.
local DEVICES, QUARANTINE, DEVICES_SECONDS = 'vaefarm:devices', 'vaefarm:quarantine', 86400

-- A worker's entry; nil where there is none, or somebody garbled it.
local function entry_of(text)
  local read, entry = pcall(cjson.decode, text or '')
  if not read or type(entry) ~= 'table' or type(entry['until']) ~= 'number' then return nil end
  return type(entry.device) == 'string' and type(entry.worker) == 'string' and entry or nil
end

local function lasts(entry) return entry and entry['until'] > TIME end

-- Write the entry of a token anew, from now on for a lease.
local function write(token, device, worker, shared, since, seconds)
  local entry = {device = device, worker = worker, shared = shared, since = since or TIME}
  entry['until'] = TIME + seconds
  redis.call('HSET', DEVICES, token, cjson.encode(entry))
  redis.call('EXPIRE', DEVICES, DEVICES_SECONDS)
end

-- The other entries that last, by whoever wrote them.
local function others(token)
  local found, all = {}, redis.call('HGETALL', DEVICES)
  for place = 1, #all, 2 do
    local entry = entry_of(all[place + 1])
    if all[place] ~= token and lasts(entry) then table.insert(found, entry) end
  end
  return found
end
