-- The catalogue: which collections there are, and which index server holds what.

-- Notes that the catalogue changed. Revisions are times, so that one never names two contents, not even after Redis
-- lost the latest of them.
local function note_change(revision)
  redis.call('SET', revision, decimal(math.max(clock(), tonumber(redis.call('GET', revision) or 0) + 1)))
end

-- csr_publish: collections unfinished revision | name collection_id record unfinished_entry
-- Makes a created collection visible, unless its name is taken or its creation was given up meanwhile.
local function publish(keys, args)
  local refused = of_another_release(keys, 3)
  if refused then
    return refused
  end
  local collections, unfinished, revision = unpack(keys)
  local name, collection_id, record, entry = unpack(args)
  if redis.call('HEXISTS', collections, name) == 1 then
    return 'taken'
  end
  if redis.call('HGET', unfinished, collection_id) ~= entry then
    return 'abandoned'
  end
  redis.call('HSET', collections, name, record)
  redis.call('HDEL', unfinished, collection_id)
  note_change(revision)
  return 'published'
end

-- csr_retire: collections unfinished revision | name collection_id record unfinished_entry
-- Frees the name if `record` still holds it, and notes that the collection is to be removed.
local function retire(keys, args)
  local refused = of_another_release(keys, 3)
  if refused then
    return refused
  end
  local collections, unfinished, revision = unpack(keys)
  local name, collection_id, record, entry = unpack(args)
  if redis.call('HGET', collections, name) ~= record then
    return 0
  end
  redis.call('HSET', unfinished, collection_id, entry)
  redis.call('HDEL', collections, name)
  note_change(revision)
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

-- csr_advance: stream | sequence seconds
-- Notes how far a stream of writes has come, for some seconds; never goes back. Returns how far it is.
local function advance(keys, args)
  local sequence = math.max(tonumber(args[1]), tonumber(redis.call('GET', keys[1]) or 0))
  redis.call('SET', keys[1], decimal(sequence), 'EX', args[2])
  return sequence
end

redis.register_function { function_name = 'csr_version', flags = { 'no-writes' },
  callback = function() return LIBRARY_VERSION end }
redis.register_function('csr_publish', publish)
-- Removing a collection must work when memory is full: it is what makes room again.
redis.register_function { function_name = 'csr_retire', flags = { 'allow-oom' }, callback = retire }
redis.register_function { function_name = 'csr_abandon', flags = { 'allow-oom' }, callback = abandon }
redis.register_function('csr_place', place)
redis.register_function('csr_advance', advance)
