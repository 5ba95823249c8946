-- Decides what becomes of each document of a write. Changes nothing.

local APPLIED, UNCHANGED, STALE, CONFLICT, MISSING, CHANGED = 'A', 'U', 'S', 'C', 'M', 'V'

local function outcome_of(stored, write, version)
  local live = stored and stored.live
  if write.if_version ~= 0 and not (live and stored.version == write.if_version) then
    return CHANGED
  elseif write.kind == PAYLOAD and not live then
    return MISSING
  elseif not stored or version > stored.version then
    return APPLIED
  elseif version < stored.version then
    return STALE
  elseif write.digest == stored.digest then
    return UNCHANGED
  end
  return CONFLICT
end

-- Returns the writes in order, from arguments that begin at `first`.
local function parse_writes(args, first)
  local writes, ids = {}, {}
  for i = first, #args, 4 do
    local content = args[i + 3]
    local n = #ids + 1
    ids[n] = args[i]
    writes[n] = { id = args[i], version = tonumber(args[i + 1]), if_version = tonumber(args[i + 2]), content = content,
      kind = string.byte(content), digest = string.sub(content, 2, 9) }
  end
  return writes, ids
end

-- Returns the change that a write makes to what is stored, or an error reply.
local function change_of(write, version, stored, generations)
  local content = write.content
  if write.kind == PAYLOAD then
    local corrupt
    content, corrupt = with_payload(write.id, stored, write.digest, string.sub(content, 10))
    if not content then
      return nil, corrupt
    end
  end
  local live = write.kind ~= TOMBSTONE
  return { id = write.id, version = version, live = live, digest = write.digest, text = content, content_at = 1,
    before = stored, lacking = live and lacking(content, generations) }
end

-- Returns the changes to make, and the packed outcomes; or an error reply.
local function plan(meta, docs, writes, ids, generations, now)
  local documents, corrupt = stored_documents(docs, ids)
  if not documents then
    return nil, nil, corrupt
  end
  local last = meta.last_version
  local changes, outcomes = {}, {}
  for i, write in ipairs(writes) do
    local id, version = write.id, write.version
    if version == 0 then
      version = math.max(now, last + 1)
    end
    if version > VERSION_MAX then
      return nil, nil, redis.error_reply('CSRVERSION versions end at 2^53-1')
    end
    local stored = documents[id]
    local outcome = outcome_of(stored, write, version)
    if outcome == APPLIED then
      local change
      change, corrupt = change_of(write, version, stored, generations)
      if not change then
        return nil, nil, corrupt
      end
      changes[#changes + 1] = change
      documents[id] = change -- for what else this call says of the document
      last = math.max(last, version)
      stored = change
    end
    outcomes[i] = outcome .. u64(stored and stored.version or 0)
  end
  return changes, table.concat(outcomes)
end
