-- Who asks, and what they may do: one statement for the token, its user, the LLM and every binding that counts.
--
-- What it found is kept for the next request as long as nobody has committed anything, in any process: SQLite tells
-- that at each request (store.lua, generation), for less than the statement costs. PostgreSQL cannot, and is asked each
-- time. Only facts are kept, never a decision: an expiry, for one, is compared with the clock each time.
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
local llms = require "central.llms"
local rbac = require "central.rbac"
local tokens = require "central.tokens"

local auths = {}

local Auth = {}
Auth.__index = Auth

-- More tokens than these between two flushes are not noted: their next use is.
local MAX_NOTED = 10000
local FLUSH_AT_ONCE = 1000
-- Everybody waits for it: a database far away gets fewer at once.
local FLUSH_S = 0.2

-- The sums are the caller's own bindings for all LLMs, those for this one, and those of the groups. Each binding is one
-- bit, and in one scope a subject has it once, so that a sum of different ones is all of them together (rbac.lua).
-- DISTINCT makes SQLite build a table: most users are in no group, and do without.
local SQL = {
  by_name = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = '*'),
      (SELECT SUM(b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = l.id),
      CASE WHEN EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = t.user_id) THEN
        (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
          WHERE m.user_id = t.user_id AND b.scope IN ('*', l.id)) END,
      l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
      l.revision, l.created_at, l.updated_at
    FROM tokens t JOIN subjects s ON s.id = t.user_id LEFT JOIN llms l ON l.name = ? WHERE t.id = ?]],
  by_id = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = '*'),
      (SELECT SUM(b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = l.id),
      CASE WHEN EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = t.user_id) THEN
        (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
          WHERE m.user_id = t.user_id AND b.scope IN ('*', l.id)) END,
      l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
      l.revision, l.created_at, l.updated_at
    FROM tokens t JOIN subjects s ON s.id = t.user_id LEFT JOIN llms l ON l.id = ? WHERE t.id = ?]],
  no_llm = [[
    SELECT t.hash, t.expires_at, t.revoked_at, t.user_id, s.name, s.kind, s.disabled,
      (SELECT SUM(b.bit) FROM bindings b WHERE b.subject_id = t.user_id AND b.scope = '*'), NULL,
      CASE WHEN EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = t.user_id) THEN
        (SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
          WHERE m.user_id = t.user_id AND b.scope = '*') END
    FROM tokens t JOIN subjects s ON s.id = t.user_id WHERE t.id = ?]],
  touch = "UPDATE tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)",
}

-- What a row of the statements is divided into: the token and its user, the rights, the LLM.
local HASH, EXPIRES, REVOKED, USER_ID, USER, KIND, DISABLED = 1, 2, 3, 4, 5, 6, 7
local RIGHTS_ON_ALL, RIGHTS_ON_ONE, GROUP_RIGHTS, LLM = 8, 9, 10, 11

-- So many rights, and LLMs of so many bytes, are kept; then all is forgotten and found again.
local MAX_KEPT = 200000
auths.MAX_BYTES = 128 << 20

-- What a row takes with the replies that are made of it: about, and rather too much.
local ROW_BYTES, ROW_TIMES = 2048, 3

function auths.new(database, clock)
  local self = setmetatable({ database = database, clock = clock, used = {}, noted = 0 }, Auth)
  self:forget()
  return self
end

-- ---- what is known -------------------------------------------------------------------------------------------------

-- holders: by a token's id. llms: by name and by id. rights: by user's id and LLM's id.
function Auth:forget()
  self.holders, self.llms, self.rights, self.kept, self.bytes = {}, {}, {}, 0, 0
end

function Auth:query(token_id, key)
  local row
  if key then
    row = self.database:one(ids.is_id(key) and SQL.by_id or SQL.by_name, key, token_id)
  else
    row = self.database:one(SQL.no_llm, token_id)
  end
  if not row then return nil end
  local holder = table.move(row, HASH, DISABLED, 1, {})
  local rights = (row[RIGHTS_ON_ALL] or 0) | (row[RIGHTS_ON_ONE] or 0) | (row[GROUP_RIGHTS] or 0)
  -- For whoever may nothing on it there is none: an LLM that exists must not take longer than one that does not.
  local exists = rbac.allows_any(rights) and row[LLM]
  return holder, rights, exists and table.move(row, LLM, LLM + llms.COLUMNS - 1, 1, {}) or nil
end

local function bytes_of(row)
  local sum = 0
  for i = 1, llms.COLUMNS do sum = sum + (type(row[i]) == "string" and #row[i] or 0) end
  return ROW_BYTES + ROW_TIMES * sum
end

function Auth:keep(token_id, key, holder, rights, llm)
  if self.kept >= MAX_KEPT or self.bytes >= auths.MAX_BYTES then self:forget() end
  self.kept = self.kept + 1
  self.holders[token_id] = holder
  -- The one that is there already may have the reply that was made of it.
  if not self.llms[key] then self.llms[key], self.bytes = llm, self.bytes + bytes_of(llm) end
  local of_user = self.rights[holder[USER_ID]]
  if not of_user then
    of_user = {}
    self.rights[holder[USER_ID]] = of_user
  end
  of_user[llm[1]] = rights
end

-- The token's holder, the rights, the LLM's row; nil for an unknown token.
function Auth:find(token_id, key)
  local others, own = self.database:generation()
  if not others or not key then return self:query(token_id, key) end
  if others ~= self.others or own ~= self.own then
    self:forget()
    self.others, self.own = others, own
  end
  local holder, llm = self.holders[token_id], self.llms[key]
  local of_user = holder and llm and self.rights[holder[USER_ID]]
  local rights = of_user and of_user[llm[1]]
  if rights then return holder, rights, llm end
  holder, rights, llm = self:query(token_id, key)
  -- A commit between the two statements: the newer fact is true, but belongs to the next generation.
  if llm and self.database:generation() == others then self:keep(token_id, key, holder, rights, llm) end
  return holder, rights, llm
end

-- ---- who asks ------------------------------------------------------------------------------------------------------

local function refusal(holder, matches, now)
  if not matches then return "invalid_token" end
  if holder[REVOKED] then return "revoked_token" end
  if holder[EXPIRES] and holder[EXPIRES] <= now then return "expired_token" end
  if holder[DISABLED] ~= 0 then return "disabled_user" end
end

local function caller_of(token_id, holder, rights, llm)
  return {
    token_id = token_id, user_id = holder[USER_ID], user = holder[USER], kind = holder[KIND], rights = rights,
    llm = llm,
  }
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
  local holder, rights, llm = self:find(token_id, key)
  local now = self.clock.text()
  local words = holder and holder.words or tokens.words(holder and holder[HASH])
  if holder then holder.words = words end
  local code = refusal(holder, tokens.equals(words, secret), now)
  if code == "invalid_token" then return nil, code end
  if code then return nil, code, { id = holder[USER_ID], name = holder[USER], token_id = token_id } end
  self:note_use(token_id, now)
  return caller_of(token_id, holder, rights, llm)
end

function Auth:standing(token_id, key)
  local holder, rights, llm = self:query(token_id, key)
  local code = refusal(holder, holder ~= nil, self.clock.text())
  if code then return nil, code end
  return caller_of(token_id, holder, rights, llm)
end

function Auth:flush()
  if self.noted == 0 then return end
  local database, used, written = self.database, self.used, {}
  local elapsed = self.clock.elapsed
  local began = elapsed()
  database:note(function()
    for token_id, at in pairs(used) do
      if #written >= FLUSH_AT_ONCE or elapsed() - began > FLUSH_S then break end
      database:run(SQL.touch, at, token_id, at)
      written[#written + 1] = token_id
    end
    return true
  end)
  -- Only now: when the database failed, all of it still waits.
  for _, token_id in ipairs(written) do used[token_id] = nil end
  self.noted = self.noted - #written
end

return auths
