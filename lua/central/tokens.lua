-- Bearer tokens: dpt_<id>_<secret>. The id is public and finds the row; the secret is 200 random bits, and only its
-- SHA-256 is kept. (A slow hash is for passwords that people choose; these cannot be guessed.)
--
--   tokens.new()                       id, secret's hash, and the token, which is shown once and then forgotten
--   tokens.parse(authorization)        id and secret of an Authorization header; nil and a code when it holds none
--   tokens.matches(hash, secret)       compared in a time that depends on neither; hash may be nil: never a match, in
--                                      the same time
--   tokens.words(hash), tokens.equals(words, secret)    the same in two steps, for who keeps the first one's result
-- and the rows: tokens.create, find, list, revoke, view. Who may do it is permits.lua's business.
local digest = require "openssl.digest"

local clocks = require "central.clock"
local fields = require "central.fields"
local ids = require "central.ids"
local problem = require "central.problem"
local subjects = require "central.subjects"

local tokens = {}

local SECRET_LENGTH = 40
local SECRET_CHARS = "0123456789abcdefghjkmnpqrstvwxyz"
local MAX_HEADER = 512
-- What an unknown id is compared with.
local NOBODY = { 0, 0, 0, 0 }

local function hash_of(secret)
  return ("%016x%016x%016x%016x"):format(string.unpack(">i8i8i8i8", (digest.new("sha256"):final(secret))))
end

function tokens.new()
  local id, secret = ids.new(), ids.random_chars(SECRET_CHARS, SECRET_LENGTH)
  return id, hash_of(secret), ("dpt_%s_%s"):format(id, secret)
end

function tokens.parse(authorization)
  if not authorization or authorization == "" then return nil, "missing_token" end
  if #authorization > MAX_HEADER then return nil, "invalid_token" end
  local id, secret = authorization:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +dpt_([a-z0-9]+)_([a-z0-9]+)$")
  if not id or not ids.is_id(id) then return nil, "invalid_token" end
  return id, secret
end

-- A hash as four numbers; of none: what no secret has.
function tokens.words(hash)
  if not hash or #hash ~= 64 then return NOBODY end
  local words = {}
  for i = 1, 4 do words[i] = math.tointeger("0x" .. hash:sub(16 * i - 15, 16 * i)) or 0 end
  return words
end

-- Every word is looked at, whatever the first difference is.
function tokens.equals(words, secret)
  local a, b, c, d = string.unpack(">i8i8i8i8", (digest.new("sha256"):final(secret)))
  local difference = (a ~ words[1]) | (b ~ words[2]) | (c ~ words[3]) | (d ~ words[4])
  return difference == 0 and words ~= NOBODY
end

function tokens.matches(hash, secret)
  return tokens.equals(tokens.words(hash), secret)
end

-- ---- rows -----------------------------------------------------------------------------------------------------------

tokens.MAX_PER_USER = 1000

local MAX_SECONDS = 10 * 366 * 86400

local SQL = {
  by_id = [[
    SELECT t.id, t.name, t.user_id, s.name, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
      FROM tokens t JOIN subjects s ON s.id = t.user_id WHERE t.id = ?]],
  all = [[
    SELECT t.id, t.name, t.user_id, s.name, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
      FROM tokens t JOIN subjects s ON s.id = t.user_id WHERE t.id > ? ORDER BY t.id LIMIT ?]],
  of_user = [[
    SELECT t.id, t.name, t.user_id, s.name, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
      FROM tokens t JOIN subjects s ON s.id = t.user_id WHERE t.user_id = ? AND t.id > ? ORDER BY t.id LIMIT ?]],
  count = "SELECT count(*) FROM tokens WHERE user_id = ? AND revoked_at IS NULL",
  -- Room for new ones: what was revoked is in the audit log.
  clean = "DELETE FROM tokens WHERE user_id = ? AND revoked_at IS NOT NULL AND revoked_at < ?",
  clean_expired = "DELETE FROM tokens WHERE user_id = ? AND expires_at <= ?",
  insert = "INSERT INTO tokens (id, user_id, name, hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
  revoke = "UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
}

local REMEMBERED_S = 90 * 86400

local INPUT = {
  user = { kind = "key", required = true }, name = { kind = "text", max = 128 },
  expiresIn = { kind = "integer", min = 1, max = MAX_SECONDS }, expiresAt = { kind = "time" },
}

-- What a request for a token says: { user =, name =, expires_at = }.
function tokens.read(input, now)
  local values, why = fields.read(INPUT, input)
  if not values then return nil, why end
  for field, value in pairs(values) do
    if value == fields.NONE then values[field] = nil end
  end
  if values.expiresIn and values.expiresAt then
    return nil, problem(400, "invalid_request", "expiresIn: expiresAt is given too: keep one of them")
  end
  local expires_at = values.expiresAt or values.expiresIn and clocks.text(now + values.expiresIn) or nil
  if expires_at and expires_at <= clocks.text(now) then
    return nil, problem(400, "invalid_request", "expiresAt: lies in the past")
  end
  return { user = values.user, name = values.name or "", expires_at = expires_at }
end

-- Whether the user has room for one more. Expired ones are kept, so that their holders hear why, until it is needed.
local function has_room(database, user_id, now)
  if database:one(SQL.count, user_id)[1] < tokens.MAX_PER_USER then return true end
  return database:run(SQL.clean_expired, user_id, clocks.text(now)) > 0
    and database:one(SQL.count, user_id)[1] < tokens.MAX_PER_USER
end

-- The row, and the token itself, which nothing can show again.
function tokens.create(database, user, values, now)
  local user_id = user[subjects.ID]
  database:run(SQL.clean, user_id, clocks.text(now - REMEMBERED_S))
  if not has_room(database, user_id, now) then
    return nil, problem(409, "too_many", '"%s" has %d tokens, which is the most there can be: revoke some',
      user[subjects.NAME], tokens.MAX_PER_USER)
  end
  local id, hash, token = tokens.new()
  database:run(SQL.insert, id, user_id, values.name, hash, clocks.text(now), values.expires_at)
  return database:one(SQL.by_id, id), token
end

function tokens.view(row)
  return {
    id = row[1], name = row[2], userId = row[3], user = row[4], createdAt = row[5], expiresAt = row[6],
    revokedAt = row[7], lastUsedAt = row[8],
  }
end

function tokens.target(row)
  return { kind = "token", id = row[1], name = row[2] }
end

function tokens.find(database, id)
  local row = ids.is_id(id) and database:one(SQL.by_id, id)
  if row then return row end
  return nil, problem(404, "token_not_found", 'no token "%s"', id)
end

function tokens.list(database, user_id, after, count)
  if user_id then return database:all(SQL.of_user, user_id, after, count) end
  return database:all(SQL.all, after, count)
end

-- Whether it was good until now.
function tokens.revoke(database, row, now)
  return database:run(SQL.revoke, now, row[1]) == 1
end

return tokens
