-- The LLMs' rows. Who may do it is permits.lua's business.
--
-- A row is an array, as the statements of auth.lua and of this module give it; llms.view() makes an object of it.
local clocks = require "central.clock"
local fields = require "central.fields"
local ids = require "central.ids"
local problem = require "central.problem"
local replies = require "central.replies"

local llms = {}

llms.MAX = 100000
llms.TYPES = { "openai" }

local MAX_DESCRIPTION = 2000

local SQL = {
  by_id = [[
    SELECT id, name, description, type, url, model, api_key_env, api_key_file, enabled, paused, revision, created_at,
      updated_at FROM llms WHERE id = ?]],
  by_name = [[
    SELECT id, name, description, type, url, model, api_key_env, api_key_file, enabled, paused, revision, created_at,
      updated_at FROM llms WHERE name = ?]],
  all = [[
    SELECT id, name, description, type, url, model, api_key_env, api_key_file, enabled, paused, revision, created_at,
      updated_at FROM llms WHERE name > ? ORDER BY name LIMIT ?]],
  -- For those who have something on all LLMs: a deny may take single ones away. 1025 and 2050: view or admin is
  -- allowed, is denied (rbac.lua); 1088 and 2176: edit or admin, who see what is disabled too.
  -- No more than so many LLMs are looked at: the loop waits for it.
  visible = [[
    SELECT l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
      l.revision, l.created_at, l.updated_at, seen.rights FROM (
      SELECT l.id, l.name, l.enabled,
        COALESCE((SELECT SUM(DISTINCT b.bit) FROM bindings b
            WHERE b.subject_id = ? AND b.scope IN ('*', l.id)), 0)
          | COALESCE((SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
            WHERE m.user_id = ? AND b.scope IN ('*', l.id)), 0) AS rights
      FROM llms l WHERE l.name > ? ORDER BY l.name LIMIT 5000
    ) AS seen JOIN llms l ON l.id = seen.id WHERE (rights & 1025) <> 0 AND (rights & 2050) = 0
      AND (seen.enabled = 1 OR ((rights & 1088) <> 0 AND (rights & 2176) = 0)) ORDER BY seen.name LIMIT ?]],
  last_looked_at = "SELECT name FROM llms WHERE name > ? ORDER BY name LIMIT 1 OFFSET 4999",
  few_bindings = [[
    SELECT count(*) <= 1000 FROM (
      SELECT * FROM (SELECT 1 FROM bindings b WHERE b.subject_id = ? AND b.llm_id IS NOT NULL LIMIT 1001) AS own
      UNION ALL
      SELECT * FROM (SELECT 1 FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
        WHERE m.user_id = ? AND b.llm_id IS NOT NULL LIMIT 1001) AS groups
    ) AS found]],
  -- For everybody else with few bindings: only the LLMs that one names are looked at.
  visible_by_binding = [[
    SELECT * FROM (
      SELECT l.id, l.name, l.description, l.type, l.url, l.model, l.api_key_env, l.api_key_file, l.enabled, l.paused,
        l.revision, l.created_at, l.updated_at,
        COALESCE((SELECT SUM(DISTINCT b.bit) FROM bindings b
            WHERE b.subject_id = ? AND b.scope IN ('*', l.id)), 0)
          | COALESCE((SELECT SUM(DISTINCT b.bit) FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
            WHERE m.user_id = ? AND b.scope IN ('*', l.id)), 0) AS rights
      FROM llms l WHERE l.name > ? AND l.id IN (
        SELECT b.llm_id FROM bindings b WHERE b.subject_id = ? AND b.llm_id IS NOT NULL
        UNION SELECT b.llm_id FROM memberships m JOIN bindings b ON b.subject_id = m.group_id
          WHERE m.user_id = ? AND b.llm_id IS NOT NULL)
    ) AS seen WHERE (rights & 1025) <> 0 AND (rights & 2050) = 0
      AND (enabled = 1 OR ((rights & 1088) <> 0 AND (rights & 2176) = 0)) ORDER BY name LIMIT ?]],
  count = "SELECT count(*) FROM llms",
  insert = [[
    INSERT INTO llms (id, name, description, type, url, model, api_key_env, api_key_file, enabled, paused, revision,
      created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO NOTHING]],
  update = [[
    UPDATE llms SET name = ?, description = ?, type = ?, url = ?, model = ?, api_key_env = ?, api_key_file = ?,
      enabled = ?, paused = ?, revision = revision + 1, updated_at = ? WHERE id = ?]],
  delete = "DELETE FROM llms WHERE id = ?",
}

local COLUMNS = {
  "id", "name", "description", "type", "url", "model", "apiKeyEnv", "apiKeyFile", "enabled", "paused", "revision",
  "createdAt", "updatedAt",
}
local AT = {}
for i, column in ipairs(COLUMNS) do AT[column] = i end
llms.AT, llms.COLUMNS = AT, #COLUMNS

-- What only those see who may change it: where requests go is nobody else's business.
local PRIVATE = { url = true, model = true, apiKeyEnv = true, apiKeyFile = true, revision = true }

local CREATE = {
  name = { kind = "name", required = true },
  description = { kind = "text", max = MAX_DESCRIPTION, lines = true },
  type = { kind = "word", of = llms.TYPES },
  url = { kind = "url", required = true },
  model = { kind = "text", max = 256 },
  apiKeyEnv = { kind = "variable" },
  apiKeyFile = { kind = "path" },
  enabled = { kind = "flag", required = false },
  paused = { kind = "flag", required = false },
}
local UPDATE = {}
for field, spec in pairs(CREATE) do
  UPDATE[field] = setmetatable({ required = false }, { __index = spec })
end

function llms.find(database, key)
  return database:one(ids.is_id(key) and SQL.by_id or SQL.by_name, key)
end

-- The row as an object; full: with the upstream too.
function llms.view(row, full)
  local object = {}
  for i, column in ipairs(COLUMNS) do
    if full or not PRIVATE[column] then object[column] = row[i] end
  end
  object.enabled, object.paused = row[AT.enabled] == 1, row[AT.paused] == 1
  return object
end

-- As OpenAI's API shows a model; of an object of view(), and of a row.
function llms.model_of(object)
  return {
    id = object.name, object = "model", created = math.floor(clocks.parse(object.createdAt)), owned_by = "deputy",
  }
end

function llms.model(row)
  return llms.model_of{ name = row[AT.name], createdAt = row[AT.createdAt] }
end

-- Where inference goes. key differs after every change, also of a database that was restored: its revisions come again.
function llms.upstream(row)
  return {
    key = ("%s@%d@%s"):format(row[AT.id], row[AT.revision], row[AT.updatedAt]),
    name = row[AT.name], llm = row[AT.id], type = row[AT.type], url = row[AT.url], model = row[AT.model],
    api_key_env = row[AT.apiKeyEnv], api_key_file = row[AT.apiKeyFile],
  }
end

-- The reply that shows the row, made once: rows do not change, a changed LLM has another one.
function llms.reply(row, full)
  local slot = full and "full_reply" or "reply"
  local reply = row[slot]
  if not reply then
    reply = replies.json(200, llms.view(row, full))
    row[slot] = reply
  end
  return reply
end

function llms.target(row)
  return { kind = "llm", id = row[AT.id], name = row[AT.name] }
end

-- Rows by name, those after a name. user_id nil: all of them; has_all: whether that user may view all but single ones.
-- When these are fewer than count: the name after which to go on looking, or nil when that was all.
function llms.list(database, after, count, user_id, has_all)
  if not user_id then return database:all(SQL.all, after, count) end
  local few = not has_all and database:one(SQL.few_bindings, user_id, user_id)[1]
  if few == 1 or few == true then
    return database:all(SQL.visible_by_binding, user_id, user_id, after, user_id, user_id, count)
  end
  local rows = database:all(SQL.visible, user_id, user_id, after, count)
  local last = #rows < count and database:one(SQL.last_looked_at, after) or nil
  return rows, last and last[1]
end

-- Where a row of llms.list() for a user has that user's rights on it.
llms.RIGHTS = #COLUMNS + 1

local function taken(name)
  return nil, problem(409, "name_taken", 'there is an LLM named "%s" already', name)
end

local function one_key(values)
  if values.apiKeyEnv and values.apiKeyFile and values.apiKeyEnv ~= fields.NONE
    and values.apiKeyFile ~= fields.NONE then
    return nil, problem(400, "invalid_request", "apiKeyFile: apiKeyEnv is given too: keep one of them")
  end
  return values
end

local function or_nil(value)
  if value ~= fields.NONE then return value end
end

local function or_else(value, default)
  if value == nil or value == fields.NONE then return default end
  return value
end

function llms.create(database, input, now)
  local values, why = fields.read(CREATE, input)
  if not values then return nil, why end
  values, why = one_key(values)
  if not values then return nil, why end
  if database:one(SQL.count)[1] >= llms.MAX then
    return nil, problem(409, "too_many", "there are %d LLMs, which is the most there can be", llms.MAX)
  end
  local id = ids.new()
  local written = database:run(SQL.insert, id, values.name, or_else(values.description, ""),
    or_else(values.type, "openai"), values.url, or_else(values.model, values.name), or_nil(values.apiKeyEnv),
    or_nil(values.apiKeyFile), or_else(values.enabled, true) and 1 or 0, or_else(values.paused, false) and 1 or 0, now,
    now)
  if written == 0 then return taken(values.name) end
  return llms.find(database, id)
end

-- What may not be taken away, only changed.
local KEPT = { "name", "url", "enabled", "paused", "type" }

local function merge(row, values)
  local merged = {}
  for i, column in ipairs(COLUMNS) do merged[column] = row[i] end
  if values.apiKeyEnv then merged.apiKeyFile = nil end
  if values.apiKeyFile then merged.apiKeyEnv = nil end
  for field, value in pairs(values) do
    if value == fields.NONE then value = nil end
    if type(value) == "boolean" then value = value and 1 or 0 end
    merged[field] = value
  end
  merged.description = merged.description or ""
  merged.model = merged.model or merged.name
  return merged
end

-- Changes what is given, leaves the rest; the row, and what changed.
function llms.update(database, row, input, now)
  local values, why = fields.read(UPDATE, input)
  if not values then return nil, why end
  for _, field in ipairs(KEPT) do
    if values[field] == fields.NONE then
      return nil, problem(400, "invalid_request", "%s: must not be null", field)
    end
  end
  values, why = one_key(values)
  if not values then return nil, why end
  local other = values.name and llms.find(database, values.name)
  if other and other[AT.id] ~= row[AT.id] then return taken(values.name) end
  local merged = merge(row, values)
  database:run(SQL.update, merged.name, merged.description, merged.type, merged.url, merged.model, merged.apiKeyEnv,
    merged.apiKeyFile, merged.enabled, merged.paused, now, row[AT.id])
  local changed = {}
  for i, column in ipairs(COLUMNS) do
    if not PRIVATE[column] or column == "model" then
      if values[column] ~= nil and merged[column] ~= row[i] then changed[column] = values[column] end
    elseif merged[column] ~= row[i] then
      changed[column] = "changed"
    end
  end
  changed.revision = nil
  return llms.find(database, row[AT.id]), changed
end

function llms.delete(database, row)
  return database:run(SQL.delete, row[AT.id])
end

return llms
