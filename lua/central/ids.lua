-- Ids: CUID2 (github.com/paralleldrive/cuid2), 24 characters from a-z and 0-9, the first one a letter.
--
--   ids.new()          a fresh one
--   ids.is_id(text)    whether text has the shape of one; a name of that shape is refused, so that an id and a name
--                      can never be mistaken for one another
--
-- An id is a letter and a SHA3-512 over the time, 120 bits of fresh randomness, a counter that starts at random and a
-- fingerprint of the process, in base 36.
local digest = require "openssl.digest"
local rand = require "openssl.rand"

local ids = {}

local LENGTH = 24
local FINGERPRINT_LENGTH = 32
local COUNTER_LIMIT = 476782367
local DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

-- The big-endian number in bytes (a multiple of four), in base 36.
local function to_base36(bytes)
  local limbs = { string.unpack(">" .. ("I4"):rep(#bytes // 4), bytes) }
  limbs[#limbs] = nil -- where unpack stopped
  local digits, first = {}, 1
  while first <= #limbs do
    local rest = 0
    for i = first, #limbs do
      local value = rest << 32 | limbs[i]
      limbs[i], rest = value // 36, value % 36
    end
    digits[#digits + 1] = DIGITS:sub(rest + 1, rest + 1)
    while limbs[first] == 0 do first = first + 1 end
  end
  return table.concat(digits):reverse()
end

local function hash(text)
  -- The first digit is not uniform: it goes.
  return to_base36(digest.new("sha3-512"):final(text)):sub(2)
end

-- count characters of chars, each as likely as any other.
local function random_chars(chars, count)
  local out, limit = {}, 256 - 256 % #chars
  while #out < count do
    for _, byte in ipairs{ rand.bytes(count):byte(1, -1) } do
      if byte < limit and #out < count then
        local at = byte % #chars + 1
        out[#out + 1] = chars:sub(at, at)
      end
    end
  end
  return table.concat(out)
end

local function number_to_base36(value)
  return to_base36(string.pack(">I8", value))
end

local fingerprint = hash(tostring(ids) .. rand.bytes(32)):sub(1, FINGERPRINT_LENGTH)
local counter = string.unpack(">I4", rand.bytes(4)) % COUNTER_LIMIT

function ids.new()
  counter = counter + 1
  local seed = table.concat{
    number_to_base36(os.time() * 1000), random_chars(DIGITS, LENGTH), number_to_base36(counter), fingerprint,
  }
  return random_chars(DIGITS:sub(11), 1) .. hash(seed):sub(1, LENGTH - 1)
end

function ids.is_id(text)
  return #text == LENGTH and text:find("^[a-z][a-z0-9]*$") ~= nil
end

ids.random_chars = random_chars

return ids
