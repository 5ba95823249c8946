-- Writing documents to a partition.

local PURGED_PER_WRITE = 128 -- more than a write can add, so that deletions older than the horizon never pile up

-- Remembers the result of a write id in place of the one that was recorded WRITE_IDS_KEPT writes ago.
local function remember(meta, results, write_id, result)
  local slot = 'slot:' .. decimal(meta.writes % WRITE_IDS_KEPT)
  local forgotten = redis.call('HGET', results, slot)
  if forgotten then
    redis.call('HDEL', results, 'write:' .. forgotten)
  end
  redis.call('HSET', results, slot, write_id, 'write:' .. write_id, result)
  meta.writes = meta.writes + 1
end

-- Stores the changes and appends them to the log.
local function apply(meta, docs, log, changes)
  local records = {}
  for i, change in ipairs(changes) do
    local id, before = change.id, change.before
    local version = u64(change.version)
    local checksum = checksum_of(version .. id .. change.text)
    local record = version .. checksum .. change.text
    records[2 * i - 1], records[2 * i] = id, record
    local previous = 0
    if before and before.live then
      previous = before.version
      toggle_document(meta.digest, id, previous)
      meta.documents = meta.documents - 1
    end
    if change.live then
      toggle_document(meta.digest, id, change.version)
      meta.documents = meta.documents + 1
    end
    meta.last_version = math.max(meta.last_version, change.version)
    append(meta, log, id, version, u64(previous), checksum, record)
  end
  redis.call('HSET', docs, unpack(records))
end

-- Keeps the list of documents that lack the code of a live generation.
local function note_repairs(repairs, changes, generations)
  local any = redis.call('EXISTS', repairs) == 1
  for _, change in ipairs(changes) do
    if any then
      for _, generation in ipairs(generations) do
        redis.call('HDEL', repairs, decimal(generation) .. ':' .. change.id)
      end
    end
    for _, generation in ipairs(change.lacking or {}) do
      redis.call('HSET', repairs, decimal(generation) .. ':' .. change.id, decimal(change.version))
      any = true
    end
  end
end

-- Notes when documents were deleted, and forgets deletions from before `horizon`.
local function note_tombstones(docs, tombstones, changes, now, horizon)
  for _, change in ipairs(changes) do
    if not change.live then
      redis.call('ZADD', tombstones, decimal(now), change.id)
    elseif change.before and not change.before.live then
      redis.call('ZREM', tombstones, change.id)
    end
  end
  local old = redis.call('ZRANGEBYSCORE', tombstones, '-inf', decimal(horizon), 'LIMIT', 0, PURGED_PER_WRITE)
  if #old == 0 then
    return
  end
  local records = redis.call('HMGET', docs, unpack(old))
  for i, id in ipairs(old) do
    if records[i] and string.byte(records[i], 17) == TOMBSTONE then -- whatever else it is, it must not get lost
      redis.call('HDEL', docs, id)
    end
  end
  redis.call('ZREM', tombstones, unpack(old))
end

-- csr_write: meta docs log results pins tombstones repairs | write_id write_digest min_lsn term log_bytes_max
--            tombstone_microseconds generations (decimal, comma between), then for each document:
--            id, version (decimal, 0: assign), version that must be live (decimal, 0: any), content
-- Returns u64 LSN, then for each document its outcome (one letter) and the u64 version that is stored now (0: none).
local function write(keys, args)
  local refused = of_another_release(keys, 7)
  if refused then
    return refused
  end
  local meta_key, docs, log, results, pins, tombstones, repairs = unpack(keys)
  local write_id, write_digest, min_lsn, term = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local log_bytes_max, tombstone_microseconds = tonumber(args[5]), tonumber(args[6])
  local generations = {}
  for number in string.gmatch(args[7], '%d+') do
    generations[#generations + 1] = tonumber(number)
  end
  local meta
  meta, refused = read_meta(meta_key)
  if not meta then
    return refused
  end
  local first = redis.call('HGET', results, 'write:' .. write_id)
  if first then
    if string.sub(first, 1, 8) ~= write_digest then
      return redis.error_reply('CSRREUSED the write id was used for another write')
    end
    return string.sub(first, 9)
  end
  refused = refusal(meta, term, min_lsn)
  if refused then
    return refused
  end
  local now = clock()
  local writes, ids = parse_writes(args, 8)
  local changes, outcomes, corrupt = plan(meta, docs, writes, ids, generations, now)
  if not changes then
    return corrupt
  end
  if #changes > 0 then
    local before = { lsn = meta.lsn, log_bytes = meta.log_bytes }
    apply(meta, docs, log, changes)
    trim(meta, log, pins, before, log_bytes_max, now)
    note_repairs(repairs, changes, generations)
    redis.call('PUBLISH', LOG_CHANNEL, string.match(meta_key, '{(.*)}'))
  end
  note_tombstones(docs, tombstones, changes, now, now - tombstone_microseconds)
  local result = u64(meta.lsn) .. outcomes
  remember(meta, results, write_id, write_digest .. result)
  write_meta(meta)
  return result
end

redis.register_function('csr_write', write)
-- The same for deletions only: they make room, so they must work when memory is full.
redis.register_function { function_name = 'csr_delete', flags = { 'allow-oom' }, callback = write }
