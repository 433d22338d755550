-- Who asks, and what they may do: one statement for the token, its user, the LLM and every binding that counts. Nothing
-- is remembered from one request to the next, so that what another process has committed holds for the very next one.
--
--   local auth = auths.new(database, clock)
--   local caller, code = auth:check(authorization, key)     key: an LLM's id or name, or nil
--   local caller, code = auth:standing(token_id, key)       the same for a caller who was known a moment ago
-- code says why not: "missing_token", "invalid_token", "expired_token", "revoked_token", "disabled_user"; for the last
-- three, a third value says whose token it is: { id =, name =, token_id = }.
-- caller: user_id, user, token_id, kind ("user" | "service"), rights (on that LLM, else on all: see rbac.lua), llm (its
-- row: see llms.lua) or nil when there is none of that id or name.
--   auth:flush()     writes down when tokens were last used; check() only notes it
local ids = require "central.ids"
local tokens = require "central.tokens"

local auths = {}

local Auth = {}
Auth.__index = Auth

-- More tokens than these between two flushes are not noted: their next use is.
local MAX_NOTED = 10000
local FLUSH_AT_ONCE = 500

-- The sums are the caller's own bindings and those of the groups. Each binding is one bit, so that the sum of the
-- different ones is all of them together (rbac.lua).
local SQL = {
  by_name = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(DISTINCT b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope IN ('*', l.id)),
      (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
        WHERE m.user_id = t.user_id AND b.scope IN ('*', l.id)),
      l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
      l.revision, l.created_at, l.updated_at
    FROM tokens t JOIN subjects s ON s.id = t.user_id LEFT JOIN llms l ON l.name = ? WHERE t.id = ?]],
  by_id = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(DISTINCT b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope IN ('*', l.id)),
      (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
        WHERE m.user_id = t.user_id AND b.scope IN ('*', l.id)),
      l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
      l.revision, l.created_at, l.updated_at
    FROM tokens t JOIN subjects s ON s.id = t.user_id LEFT JOIN llms l ON l.id = ? WHERE t.id = ?]],
  no_llm = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(DISTINCT b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = '*'),
      (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
        WHERE m.user_id = t.user_id AND b.scope = '*')
    FROM tokens t JOIN subjects s ON s.id = t.user_id WHERE t.id = ?]],
  touch = "UPDATE tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)",
}

-- Where the columns of an LLM begin.
local LLM = 10

function auths.new(database, clock)
  return setmetatable({ database = database, clock = clock, used = {}, noted = 0 }, Auth)
end

local function refusal(row, matches, now)
  if not matches then return "invalid_token" end
  if row[3] then return "revoked_token" end
  if row[2] and row[2] <= now then return "expired_token" end
  if row[7] ~= 0 then return "disabled_user" end
end

local function caller_of(row, token_id)
  local llm
  if row[LLM] then llm = { table.unpack(row, LLM, LLM + 12) } end
  return {
    token_id = token_id, user_id = row[4], user = row[5], kind = row[6], rights = (row[8] or 0) | (row[9] or 0),
    llm = llm,
  }
end

function Auth:find(token_id, key)
  if not key then return self.database:one(SQL.no_llm, token_id) end
  return self.database:one(ids.is_id(key) and SQL.by_id or SQL.by_name, key, token_id)
end

function Auth:note_use(token_id, now)
  if not self.used[token_id] then
    if self.noted >= MAX_NOTED then return end
    self.noted = self.noted + 1
  end
  self.used[token_id] = now
end

function Auth:check(authorization, key)
  local token_id, secret = tokens.parse(authorization)
  if not token_id then return nil, secret end
  local row = self:find(token_id, key)
  local now = self.clock.text()
  local code = refusal(row, tokens.matches(row and row[1], secret), now)
  if code == "invalid_token" then return nil, code end
  if code then return nil, code, { id = row[4], name = row[5], token_id = token_id } end
  self:note_use(token_id, now)
  return caller_of(row, token_id)
end

function Auth:standing(token_id, key)
  local row = self:find(token_id, key)
  local code = refusal(row, row ~= nil, self.clock.text())
  if code then return nil, code end
  return caller_of(row, token_id)
end

function Auth:flush()
  if self.noted == 0 then return end
  local database, used = self.database, self.used
  database:transaction(function()
    local written = 0
    for token_id, at in pairs(used) do
      if written >= FLUSH_AT_ONCE then break end
      database:run(SQL.touch, at, token_id, at)
      used[token_id], written = nil, written + 1
    end
    self.noted = self.noted - written
    return true
  end)
end

return auths
