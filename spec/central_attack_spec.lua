-- What somebody with few rights or none tries on the central, and what a clock does that is set back.
local centrals = require "spec.support.central"
local databases = require "spec.support.central_db"
local postgres = require "spec.support.postgres"
local socket = require "socket"
local uv = require "luv"

teardown(databases.stop)

local function authorize(c, path, token)
  return c.app:authorize{ method = "POST", target = path, authorization = token and "Bearer " .. token, peer = "-" }
end

for _, kind in ipairs(databases.KINDS) do
  describe("The central on " .. kind, function()
    local c

    before_each(function() c = databases.central(kind) end)
    after_each(databases.close)

    it("takes no body for a path that nothing is served at", function()
      assert.equal(404, authorize(c, "/v1/nope").status)
      assert.equal(404, authorize(c, "/api/v1/llms/a/b/infer").status)
      assert.equal(405, authorize(c, "/v1/models").status)
      assert.equal(401, authorize(c, "/v1/responses").status)
      assert.is_nil(authorize(c, "/v1/responses", c.admin))
    end)

    it("looks up again what a refused caller asks for, whether it exists or not", function()
      c:llm("claude")
      local nobody, asked = c:user("nobody"), 0
      local query = c.service.auth.query
      c.service.auth.query = function(...)
        asked = asked + 1
        return query(...)
      end
      for _ = 1, 3 do
        for _, name in ipairs{ "claude", "nope" } do
          local before = asked
          assert.equal(403, c:ask("HEAD", "/api/v1/llms/" .. name, nobody).status)
          assert.equal(before + 1, asked, name)
        end
      end
    end)

    it("tells nobody whether a binding exists that is not his", function()
      c:llm("claude")
      local nobody = c:user("nobody")
      local binding = c:grant{ user = "nobody", role = "run", llm = "claude" }
      local there = c:ask("DELETE", "/api/v1/bindings/" .. binding.id, nobody)
      local not_there = c:ask("DELETE", "/api/v1/bindings/" .. binding.id:gsub("^.", "x"), nobody)
      assert.same({ 403, not_there.body }, { there.status, there.body })
    end)

    it("gives no LLM the name that stands for all of them", function()
      assert.equal("invalid_request", c:code("POST", "/api/v1/llms", c.admin, { name = "*", url = "http://h/v1" }))
    end)

    it("lets no LLM have the secrets of the central itself as its key", function()
      local r = c:ask("POST", "/api/v1/llms", c.admin, { name = "x", url = "http://h/v1",
        apiKeyEnv = "DEPUTY_CENTRAL_DB" })
      assert.same({ 400, "apiKeyEnv" }, { r.status, r.json.error.param })
    end)

    it("answers in UTF-8, whatever it cuts short", function()
      for i = 0, 3 do
        local name = ("a"):rep(61 + i) .. ("%C3%A9"):rep(10)
        local r = c:ask("GET", "/api/v1/llms/" .. name, c.admin)
        assert.equal(404, r.status)
        assert.is_truthy(utf8.len(r.body), r.body)
      end
      local r = c:ask("GET", "/api/v1/llms?%ff=1&%ff=2", c.admin)
      assert.same({ 400, true }, { r.status, utf8.len(r.body) ~= nil })
    end)

    it("writes refusals and uses of tokens down while its clock is set back", function()
      local nobody = c:user("nobody")
      c.app:tick()
      c.clock.now = c.clock.now - 7200
      for i = 1, 8 do
        c.clock.now = c.clock.now + 1
        assert.equal(403, c:ask("GET", "/api/v1/llms/x" .. i, nobody).status)
        c.app:tick()
      end
      local rows = c.service.database:all("SELECT target FROM audit WHERE outcome = 'refused' ORDER BY seq")
      assert.equal(8, #rows)
      local used = c.service.database:one("SELECT last_used_at FROM tokens WHERE last_used_at IS NOT NULL")
      assert.is_truthy(used)
    end)

    it("holds nobody up for long while it writes down what happened in a database far away", function()
      local far = databases.central(kind)
      local database, run = far.service.database, far.service.database.run
      for i = 1, 60 do assert.equal(200, far:ask("GET", "/api/v1/whoami", far:user("user" .. i)).status) end
      for i = 1, 60 do assert.equal(403, far:ask("GET", "/api/v1/llms/claude" .. i, far:token("user1")).status) end
      far.app:tick()
      for i = 1, 60 do assert.equal(403, far:ask("GET", "/api/v1/llms/opus" .. i, far:token("user2")).status) end
      database.run = function(...)
        far.clock.now = far.clock.now + 0.01
        return run(...)
      end
      local longest = 0
      local function timed(fn)
        local began = far.clock.now
        fn()
        longest = math.max(longest, far.clock.now - began)
      end
      assert.equal(200, far:ask("GET", "/api/v1/audit?limit=1", far.admin).status)
      for _ = 1, 20 do
        far.clock.now = far.clock.now + 30
        timed(function() far.app:tick() end)
      end
      timed(function() far:ask("GET", "/api/v1/audit?limit=1", far.admin) end)
      assert.is_true(longest <= 0.5, tostring(longest))
      assert.same({ 120 }, database:one("SELECT count(*) FROM audit WHERE outcome = 'refused' AND action = 'llm.view'"))
      assert.same({ 181 }, database:one("SELECT count(*) FROM tokens WHERE last_used_at IS NOT NULL"))
    end)

    it("holds nobody up for long while another process has the writers' lock, however many want to write", function()
      c:llm("claude")
      local other = assert(require("central.store").open{ db = c.url })
      finally(function() other:close() end)
      other:transaction(function()
        local began = socket.gettime()
        for i = 1, 10 do
          assert.equal(503, c:ask("POST", "/api/v1/users", c.admin, { name = "u" .. i }).status)
          assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)
        end
        c.app:tick()
        assert.is_true(socket.gettime() - began < 2.8, socket.gettime() - began)
      end)
      local deadline, status = socket.gettime() + 5
      repeat
        socket.sleep(0.1)
        status = c:ask("POST", "/api/v1/users", c.admin, { name = "late" }).status
      until status ~= 503 or socket.gettime() > deadline
      assert.equal(201, status)
    end)

    it("looks at a bounded number of LLMs for a list, and says where to go on", function()
      local alice, bob = c:user("alice"), c:user("bob")
      c:grant{ user = "alice", role = "view" }
      local database, SQL = c.service.database, {
        llm = [[INSERT INTO llms (id, name, description, type, url, model, enabled, paused, revision, created_at,
          updated_at) VALUES (?, ?, '', 'openai', 'http://h/v1', 'm', 1, 0, 1, '2026', '2026')]],
        binding = [[INSERT INTO bindings (id, subject_id, scope, llm_id, role, effect, created_at, created_by)
          VALUES (?, (SELECT id FROM subjects WHERE name = ?), ?, ?, 'view', ?, '2026', '-')]],
      }
      database:transaction(function()
        for i = 1, 5600 do
          local id = ("m%023d"):format(i)
          database:run(SQL.llm, id, ("llm%05d"):format(i))
          if i <= 5300 then database:run(SQL.binding, ("a%023d"):format(i), "alice", id, id, "deny") end
          if i > 4000 then database:run(SQL.binding, ("b%023d"):format(i), "bob", id, id, "allow") end
        end
        return true
      end)
      local function all(token)
        local names, after, pages = {}, "", 0
        repeat
          local r = c:ask("GET", "/api/v1/llms?limit=1000&after=" .. after, token)
          assert.equal(200, r.status)
          for _, llm in ipairs(r.json.data) do names[#names + 1] = llm.name end
          after, pages = r.json.next, pages + 1
        until not after
        return { #names, names[1], names[#names], pages }
      end
      assert.same({ 300, "llm05301", "llm05600", 2 }, all(alice))
      assert.same({ 1600, "llm04001", "llm05600", 2 }, all(bob))
    end)

    it("keeps no more of its LLMs than it has room for", function()
      local auths, service = require "central.auth", c.service
      local max = auths.MAX_BYTES
      finally(function() auths.MAX_BYTES = max end)
      auths.MAX_BYTES = 100000
      for i = 1, 40 do c:llm("llm" .. i, { description = ("d"):rep(2000) }) end
      local most = 0
      for i = 1, 40 do
        assert.equal(200, c:ask("HEAD", "/api/v1/llms/llm" .. i, c.admin).status)
        local kept = 0
        for _ in pairs(service.auth.llms) do kept = kept + 1 end
        most = math.max(most, kept)
      end
      assert.is_true(most <= 13, most)
    end)
  end)
end

describe("A database that does not answer", function()
  it("is tried again soon, however far its clock is set back meanwhile", function()
    local now, tries = 1000000, 0
    local store = require "central.store"
    local database = assert(store.open{ db = databases.new("sqlite"), clock = function() return now end })
    finally(function() database:close() end)
    database:drop()
    local dialect = database.dialect
    database.dialect = setmetatable({ connect = function()
      tries = tries + 1
      return nil, "down"
    end }, { __index = dialect })
    assert.is_false(pcall(database.one, database, "SELECT 1"))
    now = now - 86400
    assert.is_false(pcall(database.one, database, "SELECT 1"))
    assert.equal(1, tries)
    for _ = 1, 3 do
      now = now + 1
      pcall(database.one, database, "SELECT 1")
    end
    assert.is_true(tries > 1)
  end)
end)

describe("A PostgreSQL server that stands still, while its machine does not", function()
  it("costs a request its answer, and nobody the central", function()
    local url = databases.new("postgres")
    local central = centrals.start{ db = url }
    finally(centrals.stop_all)
    central:llm("claude", { url = "http://127.0.0.1:9/v1" })
    local backend = math.tointeger(tonumber((postgres.run(url,
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'deputy-central'"))))
    assert.equal(0, uv.kill(backend, "sigstop"))
    local began = socket.gettime()
    local status = central:call("HEAD", "/api/v1/llms/claude").status
    local took = socket.gettime() - began
    uv.kill(backend, "sigcont")
    assert.equal(503, status)
    assert.is_true(took < 2.5, took) -- a second for the statement, a quarter for its answer, another to look
    assert.equal(200, central:call("HEAD", "/api/v1/llms/claude").status)
  end)
end)
