-- The central's database: migrations, transactions, what happens when it is busy, gone, somebody else's or newer.
local databases = require "spec.support.central_db"
local postgres = require "spec.support.postgres"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"
local lfs = require "lfs"
local socket = require "socket"
local uv = require "luv"

local store = require "central.store"
local migrations = require "central.migrations"
local services = require "central.service"
local sqlite = require "central.dialect_sqlite"

local function open(url)
  local database = assert(store.open{ db = url })
  assert(migrations.run(database))
  return database
end

local function path_of(url) return url:match("^sqlite:(.*)$") end

local INSERT = "INSERT INTO subjects (id, kind, name, created_at, updated_at) VALUES (?, 'user', ?, '', '')"
local COUNT = "SELECT count(*) FROM subjects"

describe("The central's store", function()
  teardown(databases.stop)
  after_each(databases.close)

  for _, kind in ipairs(databases.KINDS) do
    describe("on " .. kind, function()
      it("gives rows as arrays, nil for NULL, and keeps every kind of text as it is", function()
        local database = open(databases.new(kind))
        for i, text in ipairs{ "plain", "it's; DROP TABLE llms; --", "\u{1F600} ünïcode", "100% ? $1 \\ \"", "" } do
          database:run(INSERT, "id" .. i, text)
          assert.same({ text }, database:one("SELECT name FROM subjects WHERE id = ?", "id" .. i))
        end
        assert.is_nil(database:one("SELECT name FROM subjects WHERE id = ?", "nobody"))
        assert.same({ "x" }, database:one("SELECT ?, CAST(? AS TEXT)", "x", nil))
        assert.equal(5, #database:all("SELECT id FROM subjects"))
        database:close()
      end)

      it("refuses a value with NUL in it, which the drivers would cut", function()
        local database = open(databases.new(kind))
        local ok, why = pcall(database.run, database, INSERT, "a\0b", "x")
        assert.is_false(ok)
        assert.is_true(store.is_error(why))
        assert.matches("NUL", why.message)
        database:close()
      end)

      it("undoes a transaction that raises or returns nil, and goes on working", function()
        local database = open(databases.new(kind))
        assert.is_false(pcall(database.transaction, database, function()
          database:run(INSERT, "1", "a")
          error("no")
        end))
        assert.same({ nil, "why" }, { database:transaction(function()
          database:run(INSERT, "1", "a")
          return nil, "why"
        end) })
        assert.is_false(pcall(database.transaction, database, function()
          database:run(INSERT, "1", "a")
          database:run(INSERT, "1", "a")
          return true
        end))
        assert.same({ 0 }, database:one(COUNT))
        assert.equal("done", database:transaction(function()
          database:run(INSERT, "1", "a")
          return "done"
        end))
        assert.same({ 1 }, database:one(COUNT))
        database:close()
      end)

      it("uses a statement again after it has failed", function()
        local database = open(databases.new(kind))
        database:run(INSERT, "1", "a")
        for _ = 1, 3 do assert.is_false(pcall(database.run, database, INSERT, "1", "a")) end
        assert.equal(1, database:run(INSERT, "2", "b"))
        database:close()
      end)

      it("has one writer at a time: the second waits, and for a second at most", function()
        local url = databases.new(kind)
        local first, second = open(url), open(url)
        local began = socket.gettime()
        first:transaction(function()
          first:run(INSERT, "1", "a")
          local ok, why = pcall(second.transaction, second, function() return true end)
          assert.is_false(ok)
          assert.equal("busy", why.kind)
          return true
        end)
        local took = socket.gettime() - began
        assert.is_true(took >= 0.5 and took < 3, tostring(took))
        assert.is_truthy(second.connection)
        assert.is_true(second:transaction(function() return true end))
        first:close()
        second:close()
      end)

      it("says nothing of what was not committed", function()
        local url = databases.new(kind)
        local first, second = open(url), open(url)
        first:transaction(function()
          first:run(INSERT, "1", "a")
          assert.same({ 0 }, second:one(COUNT))
          return true
        end)
        assert.same({ 1 }, second:one(COUNT))
        first:close()
        second:close()
      end)

      it("opens a database that is already there, at the version that it has", function()
        local url = databases.new(kind)
        local database = open(url)
        database:run(INSERT, "1", "a")
        database:close()
        database = open(url)
        assert.same({ 1 }, database:one(COUNT))
        assert.same({ migrations.LATEST }, database:one("SELECT max(version) FROM deputy_schema"))
        database:close()
      end)

      it("refuses the database of a newer program, in words", function()
        local url = databases.new(kind)
        local database = open(url)
        database:run("INSERT INTO deputy_schema (version) VALUES (?)", migrations.LATEST + 1)
        database:close()
        local service, why = services.open{ db = url }
        assert.is_nil(service)
        assert.matches("newer deputy", why)
        assert.matches(tostring(migrations.LATEST + 1), why)
      end)

      it("is made once by processes that start at the same time", function()
        local url = databases.new(kind)
        local script = tmp.write(nil, "start.lua", [[
          package.path = "./lua/?.lua;" .. package.path
          local service, why = require("central.service").open{ db = arg[1] }
          if not service then io.stderr:write(why) os.exit(1) end
          service:close()
        ]])
        local processes = {}
        for i = 1, 6 do processes[i] = shell.start{ "lua5.4", script, url } end
        for _, process in ipairs(processes) do
          local result = process:wait(20000)
          assert.equal("", result.stderr)
          assert.equal(0, result.status)
        end
        local database = open(url)
        assert.same({ migrations.LATEST }, database:one("SELECT count(*) FROM deputy_schema"))
        database:close()
      end)

      it("looks at indexes only, whatever a check asks", function()
        local c = databases.central(kind)
        local explain = kind == "sqlite" and "EXPLAIN QUERY PLAN " or "EXPLAIN "
        local database = c.service.database
        if kind == "postgres" then database:run("SET enable_seqscan = off") end
        -- The statements themselves, as the store has prepared them.
        local alice = c:user("alice")
        local llm = c:llm("claude")
        for _, key in ipairs{ "claude", llm.id } do c:ask("GET", "/api/v1/llms/" .. key, alice) end
        c:ask("GET", "/api/v1/whoami", alice)
        local looked = 0
        for sql in pairs(database.statements) do
          if sql:find("FROM tokens t JOIN", 1, true) then
            looked = looked + 1
            local plan = {}
            local values = {}
            for _ in sql:gmatch("%?") do values[#values + 1] = "x" end
            local statement = assert(database.connection:prepare(explain .. sql))
            assert(statement:execute(table.unpack(values)))
            for row in statement:rows() do plan[#plan + 1] = table.concat(row, " ", kind == "sqlite" and 4 or 1) end
            statement:close()
            local text = table.concat(plan, "\n")
            assert.is_nil(text:find("SCAN"), text)
            assert.is_nil(text:find("Seq Scan"), text)
          end
        end
        assert.is_true(looked >= 3)
      end)
    end)
  end

  it("names what it expects when the database's address is none", function()
    for _, db in ipairs{ "", "central.db", "mysql://h/d", "sqlite:", "sqlite:a\0b", "http://u:secret@h/" } do
      local database, why = store.open{ db = db }
      assert.is_nil(database)
      assert.matches('"sqlite:FILE" or "postgres://', why)
      assert.is_nil(why:find("secret", 1, true))
    end
  end)

  describe("with SQLite", function()
    it("makes the file readable for its owner alone", function()
      local url = databases.new("sqlite")
      local database = open(url)
      database:run(INSERT, "1", "a")
      for _, suffix in ipairs{ "", "-wal", "-shm" } do
        assert.equal("rw-------", lfs.attributes(path_of(url) .. suffix, "permissions"))
      end
      database:close()
    end)

    it("syncs each commit, checks foreign keys, and reads beside a writer", function()
      local database = open(databases.new("sqlite"))
      assert.same({ 2 }, database:one("PRAGMA synchronous"))
      assert.same({ "wal" }, database:one("PRAGMA journal_mode"))
      assert.same({ 1 }, database:one("PRAGMA foreign_keys"))
      assert.is_true(database:one("PRAGMA busy_timeout")[1] <= 1000)
      database:close()
    end)

    it("refuses a file of another program, and one that is no database", function()
      local url = databases.new("sqlite")
      local database = assert(store.open{ db = url })
      database:run("CREATE TABLE songs (title TEXT)")
      database:close()
      local service, why = services.open{ db = url }
      assert.is_nil(service)
      assert.matches("another program", why)
      local path = tmp.write(nil, "text.db", ("this is no database\n"):rep(100))
      service, why = services.open{ db = "sqlite:" .. path }
      assert.is_nil(service)
      assert.matches("not a database", why)
    end)

    it("keeps its hold on the file while it is opened once more in the same process", function()
      local url = databases.new("sqlite")
      local first = open(url)
      local second = open(url)
      first:close()
      second:run(INSERT, "1", "before")
      -- Another process that closes it is not the last one, and so leaves the WAL where it is.
      local script = tmp.write(nil, "look.lua", [[
        package.path = "./lua/?.lua;" .. package.path
        require("central.store").open{ db = arg[1] }:close()
      ]])
      assert.equal(0, shell.run{ "lua5.4", script, url }.status)
      assert.is_truthy(lfs.attributes(path_of(url) .. "-wal"))
      second:close()
    end)

    it("says which file cannot be opened, and why", function()
      local service, why = services.open{ db = "sqlite:" .. tmp.dir() .. "/missing/central.db" }
      assert.is_nil(service)
      assert.matches("missing/central%.db", why)
      assert.matches("no such file", why)
    end)

    it("copies itself while in use: a whole, sound database that never overwrites", function()
      local c = databases.central("sqlite")
      c:llm("claude")
      local path = tmp.dir() .. "/copy.db"
      assert.is_true(c.service:backup(c.me, path))
      assert.equal("rw-------", lfs.attributes(path, "permissions"))
      local copy = open("sqlite:" .. path)
      assert.equal("ok", sqlite.integrity(copy))
      assert.same({ 1 }, copy:one("SELECT count(*) FROM llms"))
      copy:close()
      local done, why = c.service:backup(c.me, path)
      assert.is_nil(done)
      assert.matches("exists", why.message)
      done, why = c.service:backup(c.me, tmp.dir() .. "/no/such/dir.db")
      assert.is_nil(done)
      assert.matches("no such file", why.message)
    end)

    -- As somebody does who restores a backup under a running central.
    local function replace(c, path)
      assert(os.remove(path_of(c.url)))
      for _, suffix in ipairs{ "-wal", "-shm" } do os.remove(path_of(c.url) .. suffix) end
      if path then assert(os.rename(path, path_of(c.url))) end
    end

    it("goes over to the file that was put in its place, within a second and before any change", function()
      local c = databases.central("sqlite")
      c:llm("claude")
      local alice, path = c:user("alice"), tmp.dir() .. "/copy.db"
      c:grant{ user = "alice", role = "view", llm = "claude" }
      assert.is_true(c.service:backup(c.me, path))
      assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", alice).status)
      replace(c, path)
      local other = databases.central(c.url, { shared = true })
      other:revoke{ user = "alice", role = "view", llm = "claude" }
      c.app:tick()
      assert.equal(403, c:ask("HEAD", "/api/v1/llms/claude", alice).status)
      assert.matches("central.db was removed or replaced", table.concat(c.logged, "\n"), 1, true)

      assert.is_true(c.service:backup(c.me, path))
      replace(c, path)
      assert.equal(201, c:ask("POST", "/api/v1/users", c.admin, { name = "bob" }).status)
      other.app:tick()
      assert.equal(200, other:ask("GET", "/api/v1/users/bob", c.admin).status)
    end)

    it("tells what an LLM was before its file was restored from what it became since", function()
      local c = databases.central("sqlite")
      c:llm("claude")
      local path, keys = tmp.dir() .. "/copy.db", {}
      assert.is_true(c.service:backup(c.me, path))
      for i, url in ipairs{ "http://old.example/v1", "http://new.example/v1" } do
        c.clock.now = c.clock.now + 1
        assert.equal(200, c:ask("PUT", "/api/v1/llms/claude", c.admin, { url = url }).status)
        local forward = c:ask("POST", "/api/v1/llms/claude/infer", c.admin, "{}").forward
        assert.equal(url, forward.url)
        keys[i] = forward.key
        if i == 1 then replace(c, path) end
      end
      assert.are_not.equal(keys[1], keys[2])
    end)

    it("answers 503 after its file was removed, and makes no empty one", function()
      local c = databases.central("sqlite")
      c:llm("claude")
      assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)
      replace(c)
      c.app:tick()
      assert.equal(503, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)
      assert.equal("database_unavailable", c:code("DELETE", "/api/v1/llms/claude", c.admin))
      assert.is_nil(c.app:ready())
      assert.matches("central.db: no such file", table.concat(c.logged, "\n"), 1, true)
      assert.is_nil(lfs.attributes(path_of(c.url)))
    end)

    it("says so when its file is somebody else's", function()
      local url = databases.new("sqlite")
      open(url):close()
      local access = uv.fs_access
      uv.fs_access = function(path, mode) return path ~= path_of(url) and access(path, mode) end
      finally(function() uv.fs_access = access end)
      local service, why = services.open{ db = url }
      assert.is_nil(service)
      assert.matches("central.db: it cannot be read and written", why, 1, true)
    end)

    it("answers 503 while another process keeps the file to itself, and then goes on", function()
      local c = databases.central("sqlite")
      local other = assert(store.open{ db = c.url })
      other:transaction(function()
        local reply = c:ask("POST", "/api/v1/users", c.admin, { name = "alice" })
        assert.equal(503, reply.status)
        assert.equal("database_busy", reply.json.error.code)
        assert.equal("1", reply.headers["retry-after"])
        return true
      end)
      local deadline, status = socket.gettime() + 5
      repeat
        status = c:ask("POST", "/api/v1/users", c.admin, { name = "alice" }).status
        socket.sleep(0.05)
      until status ~= 503 or socket.gettime() > deadline
      assert.equal(201, status)
      other:close()
    end)
  end)

  describe("with PostgreSQL", function()
    it("answers 503 while the server is away, never crashes, and goes on when it is back", function()
      local c = databases.central("postgres")
      c:llm("claude")
      assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)
      postgres.kill_clients()
      local reply = c:ask("HEAD", "/api/v1/llms/claude", c.admin)
      assert.equal(503, reply.status)
      assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)

      postgres.halt()
      for _ = 1, 3 do
        reply = c:ask("GET", "/api/v1/llms/claude", c.admin)
        assert.equal(503, reply.status)
        assert.equal("database_unavailable", reply.json.error.code)
        assert.is_nil(c.app:ready())
        c.app:tick()
      end
      postgres.resume()
      local deadline = socket.gettime() + 20
      repeat
        socket.sleep(0.1)
        reply = c:ask("HEAD", "/api/v1/llms/claude", c.admin)
      until reply.status == 200 or socket.gettime() > deadline
      assert.equal(200, reply.status)
      assert.is_true(c.app:ready())
    end)

    it("notices between requests that its connection died", function()
      local c = databases.central("postgres")
      postgres.kill_clients()
      c.clock.now = c.clock.now + 10
      c.app:tick()
      c.clock.now = c.clock.now + 10
      c.app:tick()
      assert.equal(200, c:ask("GET", "/api/v1/whoami", c.admin).status)
    end)

    it("gives up a statement after a second", function()
      local database = open(databases.new("postgres"))
      local began = socket.gettime()
      local ok, why = pcall(database.one, database, "SELECT 1 FROM (SELECT pg_sleep(5)) AS slept")
      assert.is_false(ok)
      assert.equal("busy", why.kind)
      assert.is_true(socket.gettime() - began < 2)
      assert.same({ 1 }, database:one("SELECT 1"))
      database:close()
    end)

    it("compares names by their bytes, as SQLite does", function()
      local database = open(databases.new("postgres"))
      for i, name in ipairs{ "b", "B", "a", "_", "ä" } do database:run(INSERT, "id" .. i, name) end
      local names = {}
      for i, row in ipairs(database:all("SELECT name FROM subjects ORDER BY name")) do names[i] = row[1] end
      assert.same({ "B", "_", "a", "b", "ä" }, names)
      database:close()
    end)

    it("never shows the password of its URL", function()
      local lines = {}
      local service, why = services.open{
        db = "postgres://deputy:hunter2%21@127.0.0.1:1/central", log = function(_, text) lines[#lines + 1] = text end,
      }
      assert.is_nil(service)
      assert.matches("127.0.0.1:1", why, 1, true)
      for _, text in ipairs{ why, table.unpack(lines) } do
        assert.is_nil(text:find("hunter2", 1, true), text)
      end
      service, why = services.open{ db = postgres.url("missing") }
      assert.is_nil(service)
      assert.matches("the database's name may be wrong", why, 1, true)
    end)

    it("names the tool for a backup", function()
      local c = databases.central("postgres")
      local done, why = c.service:backup(c.me, tmp.dir() .. "/x")
      assert.is_nil(done)
      assert.matches("pg_dump", why.message)
    end)
  end)
end)
