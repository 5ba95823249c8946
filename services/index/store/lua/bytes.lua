-- The functions that Redis runs for us, whatever must be atomic. functions.py joins the files of this folder to one
-- library and puts constants in front. Byte layouts: entry.py.
--
-- A function does not roll back, so each one decides everything before its first write. Integers are Lua numbers, exact
-- up to 2^53; binary strings are never compared with < or >, because Lua compares them by locale. No command here is
-- newer than Redis 7.0, which has no string library while a library loads. Every key is declared, for Redis Cluster.

-- Returns the bytes behind hex digits, a multiple of 8 of them.
local function from_hex(hex)
  if #hex == 40 then -- a chain, in one go: this is on the path of every document
    return struct.pack('>I4I4I4I4I4', tonumber(string.sub(hex, 1, 8), 16), tonumber(string.sub(hex, 9, 16), 16),
      tonumber(string.sub(hex, 17, 24), 16), tonumber(string.sub(hex, 25, 32), 16), tonumber(string.sub(hex, 33, 40), 16))
  end
  local bytes = {}
  for at = 1, #hex, 8 do
    bytes[#bytes + 1] = struct.pack('>I4', tonumber(string.sub(hex, at, at + 7), 16))
  end
  return table.concat(bytes)
end

local function decimal(number)
  return string.format('%.0f', number)
end

local function u64(number)
  return struct.pack('>I8', number)
end

-- First 8 bytes of the SHA-1 of a text.
local function checksum_of(text)
  local hex = redis.sha1hex(text)
  return struct.pack('>I4I4', tonumber(string.sub(hex, 1, 8), 16), tonumber(string.sub(hex, 9, 16), 16))
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
  local hex = redis.sha1hex(id .. u64(version))
  for i = 1, 5 do
    words[i] = bit.bxor(words[i], tonumber(string.sub(hex, 8 * i - 7, 8 * i), 16))
  end
end

local function words_to_hex(words)
  local hex = {}
  for i = 1, 5 do
    hex[i] = bit.tohex(words[i])
  end
  return table.concat(hex)
end

-- Microseconds since 1970.
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- An error reply when a process of another release calls, whose functions took other keys.
local function of_another_release(keys, count)
  if #keys ~= count then
    return redis.error_reply('CSRFORMAT these functions are of a newer release; upgrade this process')
  end
  return nil
end
