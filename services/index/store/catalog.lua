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
