-- Brings the tables to the version that this program knows, in one transaction: processes that start at the same time
-- wait for one another. A database of a newer program is refused.
--
--   local version, why = migrations.run(database)
--   migrations.LATEST    the version that this program knows
local STEPS = { sqlite = require "central.schema_sqlite", postgres = require "central.schema_postgres" }

local migrations = {}
migrations.LATEST = #STEPS.sqlite

local SQL = {
  create = "CREATE TABLE IF NOT EXISTS deputy_schema (version INTEGER NOT NULL PRIMARY KEY)",
  version = "SELECT COALESCE(MAX(version), 0) FROM deputy_schema",
  reached = "INSERT INTO deputy_schema (version) VALUES (?)",
}

local function migrate(database)
  local claimed, why = database.dialect.claim(database)
  if not claimed then return nil, why end
  database:run(SQL.create)
  local version = database:one(SQL.version)[1]
  if version > migrations.LATEST then
    return nil, ("%s has version %d, this program knows up to %d: it was made by a newer deputy, use that one")
      :format(database.target.shown, version, migrations.LATEST)
  end
  for number = version + 1, migrations.LATEST do
    for _, statement in ipairs(STEPS[database.dialect.name][number]) do database:run(statement) end
    database:run(SQL.reached, number)
    database.log("info", ("the database has version %d now"):format(number))
  end
  return migrations.LATEST
end

-- Without the writers' lock, which may be busy: usually there is nothing to do.
local function is_latest(database)
  local known, row = pcall(database.one, database, SQL.version)
  return known and row[1] == migrations.LATEST
end

-- While others keep the lock, one of them may be doing just this.
local ATTEMPTS = 10

function migrations.run(database)
  local ok, version, why
  for _ = 1, ATTEMPTS do
    if is_latest(database) and database.dialect.claim(database) then return migrations.LATEST end
    ok, version, why = pcall(database.transaction, database, function() return migrate(database) end)
    if ok then return version, why end
    if type(version) ~= "table" or version.kind ~= "busy" then break end
  end
  return nil, tostring(version)
end

return migrations
