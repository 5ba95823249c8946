#!lua name=csr
local LIBRARY_VERSION = 2
local FORMAT = 1
local VERSION_MAX = 9007199254740991
local WRITE_IDS_KEPT = 1024
-- What must be atomic over the keys of a partition. Byte layouts: entry.py. A function does not roll back, so each one
-- decides everything before its first write. Integers are Lua numbers, exact up to 2^53; binary strings are never
-- compared with < or >, because Lua compares them by locale. No command here is newer than Redis 7.0.
-- functions.py puts constants in front: LIBRARY_VERSION, FORMAT, VERSION_MAX, WRITE_IDS_KEPT.

local MARK_BYTES = 1048576 -- the log is trimmed in steps of this many bytes

local APPLIED, UNCHANGED, STALE, CONFLICT = 'A', 'U', 'S', 'C'
local TOMBSTONE = 1

local BYTE_OF_HEX = {}

local function from_hex(hex)
  if not BYTE_OF_HEX['00'] then -- filled on first use: Redis 7.0 has no string library while a library loads
    for byte = 0, 255 do
      BYTE_OF_HEX[string.format('%02x', byte)] = string.char(byte)
    end
  end
  return (string.gsub(hex, '%x%x', BYTE_OF_HEX))
end

local function decimal(number)
  return string.format('%.0f', number)
end

local function u64(number)
  return struct.pack('>I8', number)
end

-- A state digest as five 32-bit words, because bit operations work on those.
local function to_words(hex)
  local words = {}
  for i = 1, 5 do
    words[i] = tonumber(string.sub(hex, 8 * i - 7, 8 * i), 16)
  end
  return words
end

local function toggle_document(words, id, version)
  local digest = to_words(redis.sha1hex(id .. u64(version)))
  for i = 1, 5 do
    words[i] = bit.bxor(words[i], digest[i])
  end
end

local function words_to_hex(words)
  local hex = {}
  for i = 1, 5 do
    hex[i] = bit.tohex(words[i])
  end
  return table.concat(hex)
end

-- Partition meta ------------------------------------------------------------------------------------------------

local META_FIELDS = {
  'format', 'state', 'term', 'lsn', 'chain', 'digest', 'documents', 'last_version', 'log_bytes', 'marks', 'writes'
}

-- Returns the meta of a partition that may still be asked, or an error reply.
local function read_meta(key)
  local values = redis.call('HMGET', key, unpack(META_FIELDS))
  if not values[1] then
    return nil, redis.error_reply('CSRCLOSED the partition does not exist')
  end
  if tonumber(values[1]) > FORMAT then
    return nil, redis.error_reply('CSRFORMAT a newer release wrote this partition')
  end
  if values[2] == 'closed' then
    return nil, redis.error_reply('CSRCLOSED the partition is closed')
  end
  return {
    key = key,
    state = values[2],
    term = values[3],
    lsn = tonumber(values[4]),
    chain = from_hex(values[5]),
    chain_hex = values[5],
    digest = to_words(values[6]),
    documents = tonumber(values[7]),
    last_version = tonumber(values[8] or 0), -- highest version in the partition
    log_bytes = tonumber(values[9] or 0),    -- appended to the log since its beginning
    marks = tonumber(values[10] or 0),       -- marks up to this one were used for trimming
    writes = tonumber(values[11] or 0)       -- write ids ever recorded
  }
end

local function write_meta(meta)
  redis.call('HSET', meta.key,
    'lsn', decimal(meta.lsn),
    'chain', meta.chain_hex,
    'digest', words_to_hex(meta.digest),
    'documents', decimal(meta.documents),
    'last_version', decimal(meta.last_version),
    'log_bytes', decimal(meta.log_bytes),
    'marks', decimal(meta.marks),
    'writes', decimal(meta.writes))
end

local function refusal(meta, term, min_lsn)
  if meta.state ~= 'open' then
    return redis.error_reply('CSRFROZEN the partition takes no writes for now')
  end
  if term ~= '' and term ~= meta.term then
    return redis.error_reply('CSRTERM the partition is in term ' .. meta.term .. ', the writer in ' .. term)
  end
  if meta.lsn < min_lsn then
    return redis.error_reply('CSRBEHIND the log ends at ' .. decimal(meta.lsn) .. ', but ' .. decimal(min_lsn) ..
      ' was acknowledged')
  end
  return nil
end

-- Deciding ------------------------------------------------------------------------------------------------------

local function outcome_of(stored, version, digest)
  if not stored or version > stored.version then
    return APPLIED
  elseif version < stored.version then
    return STALE
  elseif digest == stored.digest then
    return UNCHANGED
  end
  return CONFLICT
end

local function parse_header(record)
  local version, _, flags, digest = struct.unpack('>I8c8Bc8', record)
  return { version = version, live = flags % 2 ~= TOMBSTONE, digest = digest }
end

-- Reads the stored headers of all ids: {id -> header}, or an error reply.
local function stored_headers(docs, ids)
  local headers = {}
  for i, record in ipairs(redis.call('HMGET', docs, unpack(ids))) do
    if record then
      if #record < 25 then
        return nil, redis.error_reply('CSRCORRUPT the record of ' .. ids[i] .. ' is cut short')
      end
      headers[ids[i]] = parse_header(record)
    end
  end
  return headers
end

-- Returns what to apply, and the packed outcomes; or an error reply. Changes nothing.
local function plan(meta, docs, ids, versions, contents)
  local headers, corrupt = stored_headers(docs, ids)
  if corrupt then
    return nil, nil, corrupt
  end
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = meta.last_version
  local changes, outcomes = {}, {}
  for i, id in ipairs(ids) do
    local version = versions[i]
    if version == 0 then
      version = math.max(now, last + 1)
    end
    if version > VERSION_MAX then
      return nil, nil, redis.error_reply('CSRVERSION versions end at 2^53-1')
    end
    local stored = headers[id]
    local header = { version = version, live = string.byte(contents[i]) % 2 ~= TOMBSTONE,
      digest = string.sub(contents[i], 2, 9) }
    local outcome = outcome_of(stored, version, header.digest)
    if outcome == APPLIED then
      changes[#changes + 1] = { id = id, content = contents[i], header = header, before = stored }
      headers[id] = header
      last = math.max(last, version)
    end
    outcomes[i] = outcome .. u64(headers[id].version)
  end
  return changes, table.concat(outcomes)
end

-- Applying ------------------------------------------------------------------------------------------------------

local function apply(meta, docs, log, change)
  local id, header, before = change.id, change.header, change.before
  local version = u64(header.version)
  local checksum = from_hex(string.sub(redis.sha1hex(version .. id .. change.content), 1, 16))
  local record = version .. checksum .. change.content
  redis.call('HSET', docs, id, record)
  if before and before.live then
    toggle_document(meta.digest, id, before.version)
    meta.documents = meta.documents - 1
  end
  if header.live then
    toggle_document(meta.digest, id, header.version)
    meta.documents = meta.documents + 1
  end
  meta.lsn = meta.lsn + 1
  meta.chain_hex = redis.sha1hex(meta.chain .. u64(meta.lsn) .. version .. checksum .. id)
  meta.chain = from_hex(meta.chain_hex)
  meta.last_version = math.max(meta.last_version, header.version)
  meta.log_bytes = meta.log_bytes + #id + #record + #meta.chain
  redis.call('XADD', log, decimal(meta.lsn) .. '-0', 'i', id, 'r', record, 'c', meta.chain)
end

-- Keeps at least `bytes_max` of the log, and little more. Whenever the bytes ever appended pass a multiple of
-- MARK_BYTES, a mark notes where that call began; so trimming knows where to cut without reading entries.
local function trim(meta, log, before, bytes_max)
  local mark = math.floor(meta.log_bytes / MARK_BYTES)
  if mark > math.floor(before.log_bytes / MARK_BYTES) then
    redis.call('HSET', meta.key, 'mark:' .. decimal(mark), decimal(before.lsn + 1))
  end
  local cut
  while meta.marks < math.floor((meta.log_bytes - bytes_max) / MARK_BYTES) do
    meta.marks = meta.marks + 1
    local field = 'mark:' .. decimal(meta.marks)
    cut = redis.call('HGET', meta.key, field) or cut
    redis.call('HDEL', meta.key, field)
  end
  if cut then
    redis.call('XTRIM', log, 'MINID', '~', cut .. '-0')
  end
end

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

-- csr_write: meta docs log results | write_id write_digest min_lsn term log_bytes_max,
--            then id, version (decimal, 0: assign), content for each document
-- Returns u64 LSN, then for each document its outcome (one letter) and u64 version.
local function write(keys, args)
  local meta_key, docs, log, results = unpack(keys)
  local write_id, write_digest, min_lsn, term = args[1], args[2], tonumber(args[3]), args[4]
  local log_bytes_max = tonumber(args[5])
  local meta, refused = read_meta(meta_key)
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
  local ids, versions, contents = {}, {}, {}
  for i = 6, #args, 3 do
    ids[#ids + 1], versions[#versions + 1], contents[#contents + 1] = args[i], tonumber(args[i + 1]), args[i + 2]
  end
  local changes, outcomes, corrupt = plan(meta, docs, ids, versions, contents)
  if not changes then
    return corrupt
  end
  local before = { lsn = meta.lsn, log_bytes = meta.log_bytes }
  for _, change in ipairs(changes) do
    apply(meta, docs, log, change)
  end
  trim(meta, log, before, log_bytes_max)
  local result = u64(meta.lsn) .. outcomes
  remember(meta, results, write_id, write_digest .. result)
  write_meta(meta)
  return result
end

-- csr_close: meta
-- Closes a partition for good; a partition that is gone stays gone. Returns whether it was there.
local function close(keys)
  if redis.call('EXISTS', keys[1]) == 0 then
    return 0
  end
  redis.call('HSET', keys[1], 'state', 'closed')
  return 1
end

redis.register_function { function_name = 'csr_version', flags = { 'no-writes' },
  callback = function() return LIBRARY_VERSION end }
redis.register_function('csr_write', write)
-- The same for deletions only: they make room, so they must work when memory is full.
redis.register_function { function_name = 'csr_delete', flags = { 'allow-oom' }, callback = write }
redis.register_function { function_name = 'csr_close', flags = { 'allow-oom' }, callback = close }

-- What must be atomic over the keys of the catalogue.

-- csr_publish: collections unfinished | name collection_id record unfinished_entry
-- Makes a created collection visible, unless its name is taken or its creation was given up meanwhile.
local function publish(keys, args)
  local collections, unfinished = unpack(keys)
  local name, collection_id, record, entry = unpack(args)
  if redis.call('HEXISTS', collections, name) == 1 then
    return 'taken'
  end
  if redis.call('HGET', unfinished, collection_id) ~= entry then
    return 'abandoned'
  end
  redis.call('HSET', collections, name, record)
  redis.call('HDEL', unfinished, collection_id)
  return 'published'
end

-- csr_retire: collections unfinished | name collection_id record unfinished_entry
-- Frees the name if `record` still holds it, and notes that the collection is to be removed.
local function retire(keys, args)
  local collections, unfinished = unpack(keys)
  local name, collection_id, record, entry = unpack(args)
  if redis.call('HGET', collections, name) ~= record then
    return 0
  end
  redis.call('HSET', unfinished, collection_id, entry)
  redis.call('HDEL', collections, name)
  return 1
end

-- csr_abandon: unfinished | collection_id entry new_entry
-- Turns an unfinished creation into a deletion, unless it was published meanwhile.
local function abandon(keys, args)
  if redis.call('HGET', keys[1], args[1]) ~= args[2] then
    return 0
  end
  redis.call('HSET', keys[1], args[1], args[3])
  return 1
end

-- csr_place: placement | expected_term table
-- Replaces the placement table of the expected term (0: none); returns the term that was found.
local function place(keys, args)
  local text = redis.call('GET', keys[1])
  local term = text and cjson.decode(text).term or 0
  if term == tonumber(args[1]) then
    redis.call('SET', keys[1], args[2])
  end
  return term
end

redis.register_function('csr_publish', publish)
-- Removing a collection must work when memory is full: it is what makes room again.
redis.register_function { function_name = 'csr_retire', flags = { 'allow-oom' }, callback = retire }
redis.register_function { function_name = 'csr_abandon', flags = { 'allow-oom' }, callback = abandon }
redis.register_function('csr_place', place)
