-- Users, service accounts and groups: whom permissions are given to. One space of names for all three, so that a name
-- means one of them. Who may do it is permits.lua's business.
local fields = require "central.fields"
local ids = require "central.ids"
local problem = require "central.problem"

local subjects = {}

subjects.MAX = 1000000
-- A check looks at each group of its user: the most of them bounds its time.
subjects.MAX_GROUPS = 100

local SQL = {
  by_id = "SELECT id, kind, name, disabled, created_at, updated_at FROM subjects WHERE id = ?",
  by_name = "SELECT id, kind, name, disabled, created_at, updated_at FROM subjects WHERE name = ?",
  people = [[
    SELECT id, kind, name, disabled, created_at, updated_at FROM subjects
      WHERE kind IN ('user', 'service') AND name > ? ORDER BY name LIMIT ?]],
  of_kind = [[
    SELECT id, kind, name, disabled, created_at, updated_at FROM subjects
      WHERE kind = ? AND name > ? ORDER BY name LIMIT ?]],
  count = "SELECT count(*) FROM subjects",
  insert = [[
    INSERT INTO subjects (id, kind, name, disabled, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
      ON CONFLICT DO NOTHING]],
  update = "UPDATE subjects SET name = ?, disabled = ?, updated_at = ? WHERE id = ?",
  delete = "DELETE FROM subjects WHERE id = ?",
  members = [[
    SELECT s.id, s.kind, s.name, s.disabled, s.created_at, s.updated_at FROM memberships m
      JOIN subjects s ON s.id = m.user_id WHERE m.group_id = ? AND s.name > ? ORDER BY s.name LIMIT ?]],
  groups = [[
    SELECT s.id, s.kind, s.name, s.disabled, s.created_at, s.updated_at FROM memberships m
      JOIN subjects s ON s.id = m.group_id WHERE m.user_id = ? ORDER BY s.name LIMIT ?]],
  group_count = "SELECT count(*) FROM memberships WHERE user_id = ?",
  join = "INSERT INTO memberships (user_id, group_id, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  leave = "DELETE FROM memberships WHERE user_id = ? AND group_id = ?",
}

local ID, KIND, NAME, DISABLED, CREATED, UPDATED = 1, 2, 3, 4, 5, 6
subjects.ID, subjects.KIND, subjects.NAME = ID, KIND, NAME

local PERSON = {
  name = { kind = "name", required = true }, kind = { kind = "word", of = { "user", "service" } },
  disabled = { kind = "flag" },
}
local GROUP = { name = { kind = "name", required = true } }
local CHANGE_PERSON = { name = { kind = "name" }, disabled = { kind = "flag" } }
local CHANGE_GROUP = { name = { kind = "name" } }

local function is_kind(row, wanted)
  return not wanted or (wanted == "group") == (row[KIND] == "group")
end

-- The row by its id or name. wanted: "user" (which service accounts are too), "group", or nil for any.
function subjects.find(database, key, wanted)
  local row = database:one(ids.is_id(key) and SQL.by_id or SQL.by_name, key)
  if row and is_kind(row, wanted) then return row end
  local what = wanted or "user or group"
  local why = problem(404, wanted == "group" and "group_not_found" or "user_not_found", "no " .. what .. ' "%s"', key)
  if row then
    local kind = row[KIND] == "service" and "service account" or row[KIND]
    why.message = ('"%s" is a %s, not a %s'):format(row[NAME], kind, what)
  end
  return nil, why
end

function subjects.view(row)
  local object = {
    id = row[ID], kind = row[KIND], name = row[NAME], createdAt = row[CREATED], updatedAt = row[UPDATED],
  }
  if row[KIND] ~= "group" then object.disabled = row[DISABLED] == 1 end
  return object
end

function subjects.target(row)
  return { kind = row[KIND], id = row[ID], name = row[NAME] }
end

-- Rows by name, those after a name. kind: "user", "service", "group", or nil for users and service accounts.
function subjects.list(database, kind, after, count)
  if kind then return database:all(SQL.of_kind, kind, after, count) end
  return database:all(SQL.people, after, count)
end

local function taken(name)
  return nil, problem(409, "name_taken", 'there is a user, service account or group named "%s" already', name)
end

function subjects.create(database, wanted, input, now)
  local values, why = fields.read(wanted == "group" and GROUP or PERSON, input)
  if not values then return nil, why end
  if database:one(SQL.count)[1] >= subjects.MAX then
    return nil, problem(409, "too_many", "there are %d users and groups, which is the most there can be", subjects.MAX)
  end
  local kind = wanted == "group" and "group" or (values.kind ~= fields.NONE and values.kind) or "user"
  local id = ids.new()
  local written = database:run(SQL.insert, id, kind, values.name, values.disabled == true and 1 or 0, now, now)
  if written == 0 then return taken(values.name) end
  return database:one(SQL.by_id, id)
end

-- The row, and what changed.
function subjects.update(database, row, input, now)
  local values, why = fields.read(row[KIND] == "group" and CHANGE_GROUP or CHANGE_PERSON, input)
  if not values then return nil, why end
  for field, value in pairs(values) do
    if value == fields.NONE then return nil, problem(400, "invalid_request", "%s: must not be null", field) end
  end
  local name, disabled = values.name or row[NAME], row[DISABLED]
  if values.disabled ~= nil then disabled = values.disabled and 1 or 0 end
  local other = values.name and database:one(SQL.by_name, name)
  if other and other[ID] ~= row[ID] then return taken(name) end
  database:run(SQL.update, name, disabled, now, row[ID])
  return database:one(SQL.by_id, row[ID]), {
    name = name ~= row[NAME] and name or nil,
    disabled = disabled ~= row[DISABLED] and disabled == 1 or nil,
    enabled = disabled ~= row[DISABLED] and disabled == 0 or nil,
  }
end

function subjects.delete(database, row)
  return database:run(SQL.delete, row[ID])
end

function subjects.members(database, group, after, count)
  return database:all(SQL.members, group[ID], after, count)
end

function subjects.groups(database, user_id)
  return database:all(SQL.groups, user_id, subjects.MAX_GROUPS)
end

-- What they are called, or nil when there are none: an empty table would be an empty object in JSON.
function subjects.group_names(database, user_id)
  local names = {}
  for i, group in ipairs(subjects.groups(database, user_id)) do names[i] = group[subjects.NAME] end
  return names[1] and names or nil
end

-- Whether the user was not in it before; nil and a problem when it has too many groups.
function subjects.join(database, group, user, now)
  if database:one(SQL.group_count, user[ID])[1] >= subjects.MAX_GROUPS then
    return nil, problem(409, "too_many", '"%s" is in %d groups, which is the most there can be', user[NAME],
      subjects.MAX_GROUPS)
  end
  return database:run(SQL.join, user[ID], group[ID], now) == 1
end

function subjects.leave(database, group, user)
  return database:run(SQL.leave, user[ID], group[ID]) == 1
end

return subjects
