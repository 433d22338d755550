-- The audit log: who did what to what, and each refusal; nobody can change what it says.
local databases = require "spec.support.central_db"
local postgres = require "spec.support.postgres"
local cjson = require "cjson"

local audits = require "central.audit"

for _, kind in ipairs(databases.KINDS) do
  describe("The audit log on " .. kind, function()
    teardown(databases.stop)
    after_each(databases.close)

    local function entries(c, limit)
      return c:ask("GET", "/api/v1/audit?limit=" .. (limit or 1000), c.admin).json.data
    end

    it("says who did what to what, for every change", function()
      local c = databases.central(kind)
      local function did(method, path, body, action, target, detail)
        local reply = c:ask(method, path, c.admin, body)
        assert.is_true(reply.status < 300, reply.body)
        local entry = entries(c, 1)[1]
        assert.equal(action, entry.action)
        assert.equal("root", entry.actor)
        assert.equal("192.0.2.1", entry.peer)
        assert.equal("done", entry.outcome)
        assert.equal(target, entry.target)
        assert.is_truthy(entry.targetId)
        assert.matches("^%d%d%d%d%-.*Z$", entry.at)
        for key, value in pairs(detail or {}) do assert.equal(value, entry.detail[key]) end
        return reply.json
      end
      did("POST", "/api/v1/llms", { name = "claude", url = "http://h", apiKeyEnv = "SECRET_PLACE" }, "llm.create",
        "claude")
      did("PUT", "/api/v1/llms/claude", { name = "opus" }, "llm.edit", "claude", { name = "opus" })
      did("POST", "/api/v1/llms/opus/pause", nil, "llm.edit", "opus", { paused = true })
      did("POST", "/api/v1/users", { name = "alice" }, "user.create", "alice")
      did("PUT", "/api/v1/users/alice", { disabled = true }, "user.edit", "alice", { disabled = true })
      did("POST", "/api/v1/groups", { name = "devs" }, "group.create", "devs")
      did("POST", "/api/v1/groups/devs/members", { user = "alice" }, "member.add", "alice", { group = "devs" })
      did("DELETE", "/api/v1/groups/devs/members/alice", nil, "member.remove", "alice", { group = "devs" })
      local token = did("POST", "/api/v1/tokens", { user = "alice", name = "t" }, "token.create", "t",
        { user = "alice" })
      did("DELETE", "/api/v1/tokens/" .. token.id, nil, "token.revoke", "t", { user = "alice" })
      did("POST", "/api/v1/bindings", { user = "alice", role = "view", llm = "opus" }, "binding.grant", "alice",
        { role = "view", llm = "opus", effect = "allow" })
      did("DELETE", "/api/v1/bindings?user=alice&role=view&llm=opus", nil, "binding.revoke", "alice",
        { role = "view", llm = "opus" })
      did("DELETE", "/api/v1/llms/opus", nil, "llm.delete", "opus")
      did("DELETE", "/api/v1/users/alice", nil, "user.delete", "alice")
      did("DELETE", "/api/v1/groups/devs", nil, "group.delete", "devs")
      -- What has come to nothing is not done.
      local before = #entries(c)
      assert.equal(409, c:ask("POST", "/api/v1/users", c.admin, { name = "root" }).status)
      assert.equal(404, c:ask("DELETE", "/api/v1/llms/opus", c.admin).status)
      assert.equal(before, #entries(c))
    end)

    it("says each refusal, with who asked for what", function()
      local c = databases.central(kind)
      c:llm("claude")
      local alice = c:user("alice")
      c:ask("HEAD", "/api/v1/llms/claude", alice)
      c:ask("POST", "/v1/chat/completions", alice, "{}", "claude")
      c:ask("DELETE", "/api/v1/users/root", alice)
      c:ask("HEAD", "/api/v1/llms/claude")
      c:ask("HEAD", "/api/v1/llms/claude", c.admin .. "x")
      c.app:authorize{ method = "POST", target = "/api/v1/llms/claude/infer", authorization = "Bearer " .. alice }
      local found = {}
      for _, entry in ipairs(entries(c)) do
        if entry.outcome == "refused" then
          local key = table.concat({ entry.actor, entry.action, entry.target or "", entry.code }, " ")
          found[key] = entry.times
        end
      end
      assert.same({
        ["alice llm.view claude permission_denied"] = 1, ["alice llm.run claude permission_denied"] = 2,
        ["alice user.delete root permission_denied"] = 1, ["- llm.view  missing_token"] = 1,
        ["- llm.view  invalid_token"] = 1,
      }, found)
    end)

    it("writes a refusal within a second, and repeated ones as one row with their number", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      local COUNT = "SELECT count(*), CAST(COALESCE(SUM(times), 0) AS TEXT) FROM audit WHERE outcome = 'refused'"
      local function counted() return table.concat(c.service.database:one(COUNT), " ") end
      for _ = 1, 1000 do c:ask("HEAD", "/api/v1/llms/x", alice) end
      assert.equal("0 0", counted())
      c.clock.now = c.clock.now + 1
      c.app:tick()
      assert.equal("1 1000", counted())
      for _ = 1, 30 do
        c:ask("HEAD", "/api/v1/llms/x", alice)
        c.clock.now = c.clock.now + 1
        c.app:tick()
      end
      assert.equal("1 1000", counted())
      c.clock.now = c.clock.now + 60
      c.app:tick()
      assert.equal("2 1030", counted())
    end)

    it("shows what happened in its order, though a refusal is written later, on every page", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      c:ask("HEAD", "/api/v1/llms/x", alice)
      c.clock.now = c.clock.now + 1
      c:ask("POST", "/api/v1/groups", c.admin, { name = "devs" })
      c:ask("POST", "/api/v1/groups", c.admin, { name = "ops" })
      local function names(list)
        local words = {}
        for i, entry in ipairs(list) do words[i] = entry.outcome == "refused" and "refused" or entry.target end
        return table.concat(words, " ")
      end
      local all = entries(c)
      assert.matches("^ops devs refused ", names(all))
      local paged, before = {}, nil
      repeat
        local target = "/api/v1/audit?limit=2" .. (before and "&before=" .. before or "")
        local json = c:ask("GET", target, c.admin).json
        table.move(json.data, 1, #json.data, #paged + 1, paged)
        before = json.next ~= cjson.null and json.next or nil
      until not before
      assert.same(all, paged)
    end)

    it("grows no faster than it may, and still counts every refusal", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      local asked = 0
      for _ = 1, 10 do
        for _ = 1, 400 do
          asked = asked + 1
          c:ask("HEAD", "/api/v1/llms/guess-" .. asked, alice)
        end
        c.clock.now = c.clock.now + 1
        c.app:tick()
      end
      local rows = c.service.database:one("SELECT count(*) FROM audit WHERE outcome = 'refused'")[1]
      assert.is_true(rows <= audits.BURST + 10 * (audits.PER_SECOND + 1), tostring(rows))
      local sum = 0
      for _, entry in ipairs(entries(c)) do
        if entry.outcome == "refused" then sum = sum + entry.times end
      end
      assert.equal(asked, sum)
    end)

    it("is read by admins alone, the latest first, page by page", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      c:grant{ user = "alice", role = "view" }
      assert.equal(403, c:ask("GET", "/api/v1/audit", alice).status)
      for i = 1, 7 do c:user("user-" .. i) end
      local all, seqs, before = entries(c), {}, nil
      repeat
        local reply = c:ask("GET", "/api/v1/audit?limit=3" .. (before and "&before=" .. before or ""), c.admin)
        for _, entry in ipairs(reply.json.data) do seqs[#seqs + 1] = entry.seq end
        before = reply.json.next
      until not before
      assert.equal(#all, #seqs)
      for i, entry in ipairs(all) do assert.equal(entry.seq, seqs[i]) end
      for i = 2, #seqs do assert.is_true(tonumber(seqs[i]) < tonumber(seqs[i - 1])) end
      assert.equal(400, c:ask("GET", "/api/v1/audit?before=x", c.admin).status)
      assert.equal(400, c:ask("GET", "/api/v1/audit?before=1%20OR%201=1", c.admin).status)
    end)

    it("cannot be changed, not by the central's own connection either", function()
      local c = databases.central(kind)
      c:user("alice")
      local database = c.service.database
      local before = cjson.encode(database:all("SELECT CAST(seq AS TEXT), action, target FROM audit ORDER BY seq"))
      local attempts = {
        "UPDATE audit SET actor = 'somebody'", "DELETE FROM audit", "DELETE FROM audit WHERE seq = 1",
      }
      if kind == "sqlite" then
        attempts[#attempts + 1] = "INSERT OR REPLACE INTO audit (seq, at, actor, action, outcome) "
          .. "VALUES (1, '', 'x', 'x', 'done')"
        attempts[#attempts + 1] = "UPDATE OR REPLACE audit SET seq = 1 WHERE seq = 2"
      else
        attempts[#attempts + 1] = "TRUNCATE audit"
        attempts[#attempts + 1] = "TRUNCATE audit CASCADE"
        attempts[#attempts + 1] = "INSERT INTO audit (seq, at, actor, action, outcome) OVERRIDING SYSTEM VALUE "
          .. "VALUES (1, '', 'x', 'x', 'done') ON CONFLICT (seq) DO UPDATE SET actor = 'x'"
      end
      for _, sql in ipairs(attempts) do
        local ok, why = pcall(database.run, database, sql)
        assert.is_false(ok, sql)
        assert.matches("append%-only", why.message)
        if kind == "postgres" then
          local done, err = postgres.run(c.url, sql)
          assert.is_nil(done)
          assert.matches("append%-only", err)
        end
      end
      assert.equal(before,
        cjson.encode(database:all("SELECT CAST(seq AS TEXT), action, target FROM audit ORDER BY seq")))
    end)

    it("has no row for what was not done, and nothing is done without its row", function()
      local c = databases.central(kind)
      local insert = c.app.audit.insert
      c.app.audit.insert = function() error("the disk is full") end
      assert.equal(500, c:ask("POST", "/api/v1/users", c.admin, { name = "alice" }).status)
      c.app.audit.insert = insert
      assert.equal(404, c:ask("GET", "/api/v1/users/alice", c.admin).status)
    end)

    it("holds what an attacker would rather have it execute", function()
      local c = databases.central(kind)
      local evil = "x'); DELETE FROM tokens; -- \" ? $1 %s"
      local alice = c:user("alice")
      c:ask("HEAD", "/api/v1/llms/" .. evil:gsub("[^%w]", function(b) return ("%%%02X"):format(b:byte()) end), alice)
      for _, body in ipairs{ { name = evil }, { name = evil .. "2", kind = "service" } } do
        assert.equal(201, c:ask("POST", "/api/v1/users", c.admin, body).status)
      end
      for _, path in ipairs{ "bindings?user=%s", "tokens?user=%s", "users?after=%s", "llms?after=%s",
        "bindings?llm=%s" } do
        local reply = c:ask("GET", "/api/v1/" .. path:format((evil:gsub("[^%w]", function(b)
          return ("%%%02X"):format(b:byte())
        end))), c.admin)
        assert.is_true(reply.status == 200 or reply.status == 404, path .. reply.status)
      end
      assert.equal(evil, c:ask("GET", "/api/v1/users?after=x", c.admin).json.data[1].name)
      local last
      for _, entry in ipairs(entries(c)) do
        if entry.outcome == "refused" then last = entry end
      end
      assert.equal(evil, last.target)
      assert.equal(200, c:ask("GET", "/api/v1/whoami", alice).status)
    end)
  end)
end
