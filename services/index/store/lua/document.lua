-- Stored documents, as far as a function must understand them.

local UPSERT, TOMBSTONE, PAYLOAD = 0, 1, 2 -- first byte of a content; a payload's is never stored

-- What a document is after a record or content: `text` holds the content from `content_at` on.
local function stored_document(record)
  local version, _, kind, digest = struct.unpack('>I8c8Bc8', record)
  return { version = version, live = kind ~= TOMBSTONE, digest = digest, text = record, content_at = 17 }
end

-- Reads the documents of all ids: {id -> document}, or an error reply.
local function stored_documents(docs, ids)
  local documents = {}
  for i, record in ipairs(redis.call('HMGET', docs, unpack(ids))) do
    if record then
      if #record < 25 then
        return nil, redis.error_reply('CSRCORRUPT the record of ' .. ids[i] .. ' is cut short')
      end
      documents[ids[i]] = stored_document(record)
    end
  end
  return documents
end

-- Returns the content of a document with another payload and input digest, or an error reply. The record is verified,
-- because it gets a new checksum that would cover up what is wrong with it.
local function with_payload(id, document, digest, payload)
  local content = string.sub(document.text, document.content_at)
  if document.content_at > 1 and
    checksum_of(u64(document.version) .. id .. content) ~= string.sub(document.text, 9, 16) then
    return nil, redis.error_reply('CSRCORRUPT the record of ' .. id .. ' fails its checksum')
  end
  local format, codes, dim, payload_bytes = struct.unpack('>BBI2I4', content, 10)
  if format > BODY_FORMAT then
    return nil, redis.error_reply('CSRFORMAT a newer release wrote ' .. id)
  end
  local payload_at = 18 + 2 * dim
  return struct.pack('>Bc8BBI2I4', UPSERT, digest, format, codes, dim, #payload) ..
    string.sub(content, 18, payload_at - 1) .. payload .. string.sub(content, payload_at + payload_bytes)
end

-- Returns those of the generations of which a content has no code; nil when it has all.
local function lacking(content, generations)
  local count, dim, payload_bytes = struct.unpack('>BI2I4', content, 11)
  local at = 18 + 2 * dim + payload_bytes
  local present, found = {}, 0
  for _ = 1, count do
    local generation, latents = struct.unpack('>I4I2', content, at)
    present[generation] = true
    at = at + 6 + 4 * latents
  end
  local missing = {}
  for _, generation in ipairs(generations) do
    if not present[generation] then
      found = found + 1
      missing[found] = generation
    end
  end
  return found > 0 and missing or nil
end
