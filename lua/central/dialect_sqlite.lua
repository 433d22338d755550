-- What is particular to SQLite: one file, WAL, one writer at a time.
local DBI = require "DBI"
local uv = require "luv"

local sqlite = {}
sqlite.name = "sqlite"
sqlite.MAX_RETRY_S = 1

-- A commit is on the disk before it is acknowledged (FULL), readers never wait for writers (WAL). 64 MB of cache hold
-- the indexes of some hundred thousand bindings.
sqlite.SETTINGS = {
  "PRAGMA busy_timeout = 1000", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON",
  "PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON", "PRAGMA cache_size = -65536",
}
sqlite.BEGIN = { "BEGIN IMMEDIATE" }
sqlite.COMMIT = "COMMIT"
sqlite.ROLLBACK = "ROLLBACK"
sqlite.PING = "SELECT 1"
-- Changes with each commit of another connection; Store counts its own.
sqlite.GENERATION = "PRAGMA data_version"

-- "dep1", in the file's header: other programs' files are told apart by it.
local APPLICATION_ID = 0x64657031

local SQL = {
  application_id = "PRAGMA application_id",
  set_application_id = "PRAGMA application_id = 1684369457",
  tables = "SELECT count(*) FROM sqlite_schema",
  integrity = "PRAGMA integrity_check(1)",
  backup = "VACUUM INTO ?",
  journal_mode = "PRAGMA journal_mode",
}

function sqlite.parse(file)
  return { file = file, shown = "sqlite:" .. file }
end

local function reason(why)
  return why:match("^%u+: ([^:]+)") or why -- without code and path
end

-- Only its owner may read the file (it says who may do what), and so the files beside it, which get the same mode.
local function create(file)
  local handle, why = uv.fs_open(file, "a", 384) -- 0600
  if not handle then return nil, reason(why) end
  uv.fs_close(handle)
  return true
end

-- To close any descriptor of a file is to lose all the process's locks on it. A file that is there may be in use by
-- another connection of this process, so it is not opened here: without its lock, the next process that closed the
-- database would take the WAL away, with all that was committed since.
-- A file that was in use is never made anew: an empty one would be no database of anybody's.
local function find_or_create(target)
  local found, why = uv.fs_stat(target.file)
  if not found and not target.identity then return create(target.file) end
  if not found then return nil, reason(why) end
  if uv.fs_access(target.file, "RW") then return true end
  return nil, "it cannot be read and written: whose is it, and with which mode?"
end

local function identity(file)
  local found = uv.fs_stat(file)
  return found and ("%d:%d"):format(found.dev, found.ino) or "none"
end

-- Looked at before it is opened: should another take its place in between, moved() tells.
function sqlite.connect(target)
  local ok, why = find_or_create(target)
  if not ok then return nil, ("cannot open %s: %s"):format(target.file, why) end
  target.identity = identity(target.file)
  local connection
  ok, connection, why = pcall(DBI.Connect, "SQLite3", target.file)
  if not ok or not connection then return nil, ("cannot open %s: %s"):format(target.file, ok and why or connection) end
  connection:autocommit(true)
  return connection
end

-- Says so when the file was removed or another put in its place: what is open has no name any more, and nobody else's
-- changes reach it.
function sqlite.moved(target)
  if identity(target.file) == target.identity then return nil end
  return target.file .. " was removed or replaced"
end

-- Refuses a database that another program made; claims an empty one.
function sqlite.claim(database)
  local id = database:one(SQL.application_id)[1]
  if id == APPLICATION_ID then return true end
  if id ~= 0 or database:one(SQL.tables)[1] > 0 then
    return nil, ("%s is a database of another program"):format(database.target.file)
  end
  database:one(SQL.set_application_id)
  return true
end

function sqlite.classify(why)
  why = why:lower()
  if why:find("database is locked", 1, true) or why:find("table is locked", 1, true) then return "busy" end
  return "failed"
end

function sqlite.clean(target, why)
  return ("%s: %s"):format(target.shown, why)
end

function sqlite.backup(database, path)
  if path == "" or path:find("%c") then return nil, "expected the name of a file for the copy" end
  if uv.fs_stat(path) then return nil, path .. " exists: a backup never overwrites" end
  local ok, why = create(path)
  if not ok then return nil, ("cannot write %s: %s"):format(path, why) end
  local copied, failure = pcall(database.one, database, SQL.backup, path)
  if not copied then
    uv.fs_unlink(path)
    return nil, tostring(failure)
  end
  -- The copy is written without waiting for the disk.
  local handle = uv.fs_open(path, "r+", 384)
  if not handle or not uv.fs_fsync(handle) then return nil, "cannot write " .. path .. " to the disk" end
  uv.fs_close(handle)
  return true
end

-- "ok", or the first thing that is wrong with the file.
function sqlite.integrity(database)
  return database:one(SQL.integrity)[1]
end

return sqlite
