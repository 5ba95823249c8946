-- The log of a partition: appending, trimming, and the pins of those who need it for a while.

local MARK_BYTES = 1048576 -- the log is trimmed in steps of this many bytes

local function append(meta, log, id, version, previous, checksum, record)
  meta.lsn = meta.lsn + 1
  meta.chain_hex = redis.sha1hex(meta.chain .. struct.pack('>I8', meta.lsn) .. version .. previous .. checksum .. id)
  meta.chain = from_hex(meta.chain_hex)
  meta.log_bytes = meta.log_bytes + #id + #record + #previous + #meta.chain
  redis.call('XADD', log, decimal(meta.lsn) .. '-0', 'i', id, 'r', record, 'p', previous, 'c', meta.chain)
end

-- Returns the lowest position behind which entries are pinned; pins that have expired are taken out.
local function lowest_pin(pins, now)
  local lowest = math.huge
  local fields = redis.call('HGETALL', pins)
  for i = 1, #fields, 2 do
    local lsn, expiry = string.match(fields[i + 1], '^(%d+) (%d+)$')
    if tonumber(expiry) < now then
      redis.call('HDEL', pins, fields[i])
    else
      lowest = math.min(lowest, tonumber(lsn))
    end
  end
  return lowest
end

-- Keeps at least `bytes_max` of the log, and little more unless it is pinned, and never more than twice as much.
-- Whenever the bytes ever appended pass a multiple of MARK_BYTES, a mark notes where that call began; so trimming knows
-- where to cut without reading entries.
local function trim(meta, log, pins, before, bytes_max, now)
  local mark = math.floor(meta.log_bytes / MARK_BYTES)
  if mark > math.floor(before.log_bytes / MARK_BYTES) then
    redis.call('HSET', meta.key, 'mark:' .. decimal(mark), decimal(before.lsn + 1))
  end
  local target = math.floor((meta.log_bytes - bytes_max) / MARK_BYTES)
  if meta.marks >= target then
    return
  end
  local pinned = lowest_pin(pins, now)
  local forced = math.floor((meta.log_bytes - 2 * bytes_max) / MARK_BYTES)
  local cut
  while meta.marks < target do
    local field = 'mark:' .. decimal(meta.marks + 1)
    local position = redis.call('HGET', meta.key, field)
    if position and tonumber(position) > pinned + 1 and meta.marks >= forced then
      break
    end
    meta.marks = meta.marks + 1
    redis.call('HDEL', meta.key, field)
    cut = position or cut
  end
  if cut then
    redis.call('XTRIM', log, 'MINID', '~', cut .. '-0')
  end
end

-- csr_pin: meta pins | reader lsn seconds
-- Keeps the entries behind a position from being trimmed for some seconds, for one reader.
local function pin(keys, args)
  local meta, refused = read_meta(keys[1])
  if not meta then
    return refused
  end
  redis.call('HSET', keys[2], args[1], args[2] .. ' ' .. decimal(clock() + tonumber(args[3]) * 1000000))
  return redis.status_reply('OK')
end

-- Reading must go on when memory is full.
redis.register_function { function_name = 'csr_pin', flags = { 'allow-oom' }, callback = pin }
