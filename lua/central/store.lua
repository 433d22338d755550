-- The database: connecting, prepared statements, transactions, and what happens when it is busy or gone.
--
--   local database, why = store.open{ db = "sqlite:FILE" | "postgres://...", log = function(level, text), watch = f }
--   database:one(sql, ...)      the first row as an array, or nil; ? in sql stands for one of the values
--   database:all(sql, ...)      every row; the statement bounds how many
--   database:run(sql, ...)      how many rows were changed
--   database:transaction(fn)    one writer at a time, in all processes: what fn reads stays true until the commit. It
--                               is undone when fn raises or returns nil; returns what fn returned
--   database:note(fn)           the same for what no decision depends on: generation() stays as it is
--   database:generation()       two numbers; when neither differs from those of an earlier call, nobody has committed
--                               anything in between, in no process. nil where the database cannot tell
--   database:check_place()      notices a file that was removed or replaced; before each change, and once a second
--   database:backup(path), database:close()
--   store.is_error(value)       whether a raised value is one of this module's:
--                               { kind = "busy" | "lost" | "failed", message = "..." }
-- These raise such an error; a value with a NUL byte is refused, since the drivers would cut it there.
--
-- Nothing waits longer than store.TIMEOUT_MS. After database.hurry = true, which is for a server, a statement that has
-- waited for so long in vain is "busy" at once for as long again: nobody queues behind others who wait. A lost
-- connection is opened again by the next call, but not more often than every few seconds while the server does not
-- answer. No rows are kept here: each call sees what was committed before it, by whichever process.
--
-- watch(fd) is told the connection's socket, where there is one, and watch(nil) before it is closed: when a server has
-- died and its machine has not, nothing here would ever end, and shutting the socket down from outside ends it.
--
-- Integers come back as 32 bits from PostgreSQL, so larger numbers and times are kept as text.
local DIALECTS = { sqlite = require "central.dialect_sqlite", postgres = require "central.dialect_postgres" }

local clocks = require "central.clock"
local socket = require "socket"

local store = {}
store.TIMEOUT_MS = 1000

local OPEN_ATTEMPTS = 20
local OPEN_PAUSE_S = 0.1

local Error = {}
Error.__index = Error
Error.__tostring = function(self) return self.message end

function store.is_error(value)
  return getmetatable(value) == Error
end

local Store = {}
Store.__index = Store

local function raise(kind, message)
  error(setmetatable({ kind = kind, message = message }, Error), 0)
end

-- The dialect and what it connects to; nil, nil and why when db is neither.
local function parse(db)
  if type(db) ~= "string" or db == "" or db:find("%c") then
    return nil, nil, 'expected a database as in "sqlite:FILE" or "postgres://USER@HOST/NAME"'
  end
  local file = db:match("^sqlite:(.+)$")
  if file then return DIALECTS.sqlite, DIALECTS.sqlite.parse(file) end
  if db:find("^postgres://") or db:find("^postgresql://") then
    local target, why = DIALECTS.postgres.parse(db)
    return DIALECTS.postgres, target, why
  end
  -- The text itself is not shown: a mistyped URL may hold a password.
  local what = 'expected a database as in "sqlite:FILE" or "postgres://USER@HOST/NAME", got one that begins with "%s"'
  return nil, nil, what:format((db:match("^%w*")))
end

function store.open(options)
  local dialect, target, why = parse(options.db)
  if not target then return nil, why end
  local self = setmetatable({
    dialect = dialect, target = target, statements = {}, log = options.log or function() end, retry_at = 0,
    elapsed = clocks.elapsed(options.clock or socket.gettime), commits = 0, busy_until = {},
    watch = options.watch or function() end,
  }, Store)
  -- Another process may be recovering the file, or turning it into its first form, without anybody to wait for.
  local ok, failure
  for attempt = 1, OPEN_ATTEMPTS do
    ok, failure = pcall(self.connect, self)
    if ok then return self end
    if not store.is_error(failure) or failure.kind ~= "busy" or attempt == OPEN_ATTEMPTS then break end
    socket.sleep(OPEN_PAUSE_S)
  end
  return nil, tostring(failure)
end

function Store:connect()
  local now = self.elapsed()
  if now < self.retry_at then raise("lost", "the database does not answer: " .. self.last_failure) end
  local connection, why, fd = self.dialect.connect(self.target, store.TIMEOUT_MS)
  if not connection then
    self.last_failure = why
    self.failures = (self.failures or 0) + 1
    self.retry_at = now + math.min(self.failures, self.dialect.MAX_RETRY_S)
    self.log("error", "the database does not answer: " .. why)
    raise("lost", "the database does not answer: " .. why)
  end
  if self.failures then self.log("info", "the database answers again") end
  self.failures, self.retry_at = nil, 0
  self.connection = connection
  self.watch(fd)
  local ok, failure = pcall(function()
    for _, sql in ipairs(self.dialect.SETTINGS) do self:one(sql) end
  end)
  if not ok then
    self:drop()
    error(failure, 0)
  end
end

-- The driver's statements point at their connection without holding it: they go first.
function Store:drop()
  local connection, statements = self.connection, self.statements
  self.connection, self.statements, self.in_transaction = nil, {}, false
  -- The next connection counts the others' commits anew.
  self.commits = self.commits + 1
  if not connection then return end
  self.watch(nil)
  for _, statement in pairs(statements) do pcall(statement.close, statement) end
  pcall(connection.close, connection)
end

Store.close = Store.drop

-- Raises for a statement that did not work. The statement goes: a failed one would answer its next use with the same
-- error again.
function Store:fail(sql, why)
  why = tostring(why)
  local statement = self.statements[sql]
  if statement then
    self.statements[sql] = nil
    pcall(statement.close, statement)
  end
  local kind = self.dialect.classify(why)
  if kind == "busy" and self.hurry then self.busy_until[sql] = self.elapsed() + store.TIMEOUT_MS / 1000 end
  if self.connection and not self.connection:ping() then
    kind = "lost"
    self:drop()
  end
  raise(kind, self.dialect.clean(self.target, why))
end

function Store:prepare(sql)
  if not self.connection then self:connect() end
  local ok, statement, why = pcall(self.connection.prepare, self.connection, sql)
  if not ok or not statement then self:fail(sql, ok and why or statement) end
  self.statements[sql] = statement
  return statement
end

local function check_values(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "string" and value:find("\0", 1, true) then raise("failed", "a value holds a NUL byte") end
  end
end

function Store:check_busy(sql)
  if self.elapsed() < self.busy_until[sql] then raise("busy", "a moment ago the database was too busy for this") end
  self.busy_until[sql] = nil
end

-- The values must live until the rows are read: the driver binds pointers to them. They do: as arguments of one, all.
function Store:execute(sql, ...)
  check_values(...)
  if self.busy_until[sql] then self:check_busy(sql) end
  local statement = self.statements[sql] or self:prepare(sql)
  local ok, done, why = pcall(statement.execute, statement, ...)
  if not ok or not done then self:fail(sql, ok and why or done) end
  return statement
end

function Store:fetch(sql, statement)
  local ok, row = pcall(statement.fetch, statement)
  if not ok then self:fail(sql, row) end
  return row
end

-- To the end, always: an unfinished statement would hold SQLite's snapshot, and later calls would see the past.
function Store:one(sql, ...)
  local statement = self:execute(sql, ...)
  local row = self:fetch(sql, statement)
  if row then
    while self:fetch(sql, statement) do end
  end
  return row
end

function Store:all(sql, ...)
  local statement = self:execute(sql, ...)
  local rows = {}
  local row = self:fetch(sql, statement)
  while row do
    rows[#rows + 1] = row
    row = self:fetch(sql, statement)
  end
  return rows
end

function Store:run(sql, ...)
  return self:execute(sql, ...):affected()
end

function Store:generation()
  local sql = self.dialect.GENERATION
  if not sql then return nil end
  local row = self:one(sql)
  return row[1], self.commits
end

local function transact(self, fn)
  assert(not self.in_transaction, "transactions do not nest")
  self:check_place()
  for i, sql in ipairs(self.dialect.BEGIN) do
    local ok, failure = pcall(self.one, self, sql)
    if not ok then
      if i > 1 then self:rollback() end
      error(failure, 0)
    end
  end
  self.in_transaction = true
  local results = table.pack(pcall(fn))
  if results[1] and results[2] ~= nil then
    local ok, failure = pcall(self.one, self, self.dialect.COMMIT)
    if ok then
      self.in_transaction = false
      return table.unpack(results, 2, results.n)
    end
    results = { false, failure, n = 2 }
  end
  self:rollback()
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- Counted before and after: what is read in between may be either.
function Store:transaction(fn)
  self.commits = self.commits + 1
  local results = table.pack(pcall(transact, self, fn))
  self.commits = self.commits + 1
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

Store.note = transact

-- A connection that cannot even undo is not used again.
function Store:rollback()
  self.in_transaction = false
  if self.connection and not pcall(self.one, self, self.dialect.ROLLBACK) then self:drop() end
end

-- A copy of the whole database at path, which must not exist; true, or nil and why.
function Store:backup(path)
  return self.dialect.backup(self, path)
end

-- Lets go of a file that is not the database any more; the next call opens what is in its place.
function Store:check_place()
  local why = self.connection and self.dialect.moved(self.target)
  if not why then return end
  self.log("error", why)
  self:drop()
end

-- Notices a connection that died while nobody used it, so that no request has to.
function Store:check()
  if self.connection or self.elapsed() >= self.retry_at then pcall(self.one, self, self.dialect.PING) end
end

return store
