-- The meta hash of a partition: its state and the head of its log.

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
    term = tonumber(values[3]),
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
    'format', FORMAT,
    'lsn', decimal(meta.lsn),
    'chain', meta.chain_hex,
    'digest', words_to_hex(meta.digest),
    'documents', decimal(meta.documents),
    'last_version', decimal(meta.last_version),
    'log_bytes', decimal(meta.log_bytes),
    'marks', decimal(meta.marks),
    'writes', decimal(meta.writes))
end

-- Returns why a write is refused as a whole; nil when it is not.
local function refusal(meta, term, min_lsn)
  if meta.state ~= 'open' then
    return redis.error_reply('CSRFROZEN the partition takes no writes for now')
  end
  if term < meta.term then
    return redis.error_reply('CSRTERM the partition is in term ' .. decimal(meta.term) .. ', the writer in ' ..
      decimal(term))
  end
  if meta.lsn < min_lsn then
    return redis.error_reply('CSRBEHIND the log ends at ' .. decimal(meta.lsn) .. ', but ' .. decimal(min_lsn) ..
      ' was acknowledged')
  end
  return nil
end

-- csr_set_state: meta | state (open or frozen)
-- A partition that is closed stays closed.
local function set_state(keys, args)
  local meta, refused = read_meta(keys[1])
  if not meta then
    return refused
  end
  redis.call('HSET', keys[1], 'state', args[1])
  return redis.status_reply('OK')
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

-- Both must work when memory is full: removing a collection is what makes room again.
redis.register_function { function_name = 'csr_set_state', flags = { 'allow-oom' }, callback = set_state }
redis.register_function { function_name = 'csr_close', flags = { 'allow-oom' }, callback = close }
