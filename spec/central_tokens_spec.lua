-- Tokens and ids: random, shown once, stored hashed, named, expiring, revocable, last use recorded.
local auths = require "central.auth"
local databases = require "spec.support.central_db"
local digest = require "openssl.digest"
local ids = require "central.ids"
local tokens = require "central.tokens"

for _, kind in ipairs(databases.KINDS) do
  describe("Tokens on " .. kind, function()
    teardown(databases.stop)
    after_each(databases.close)

    it("are shown once and stored as a hash alone", function()
      local c = databases.central(kind)
      c:user("alice")
      local reply = c:ask("POST", "/api/v1/tokens", c.admin, { user = "alice", name = "laptop" })
      local id, secret = reply.json.token:match("^dpt_(%w+)_(%w+)$")
      assert.equal(reply.json.id, id)
      assert.is_true(#secret * 5 >= 160)
      local found = false
      for _, object in ipairs(c:ask("GET", "/api/v1/tokens?user=alice", c.admin).json.data) do
        assert.is_nil(object.token)
        found = found or object.id == id and object.name == "laptop"
      end
      assert.is_true(found)
      local hash = digest.new("sha256"):final(secret):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
      local row = c.service.database:one("SELECT id, user_id, name, hash FROM tokens WHERE id = ?", id)
      assert.equal(hash, row[4])
      -- Nowhere else either.
      for _, entry in ipairs(c:ask("GET", "/api/v1/audit?limit=1000", c.admin).json.data) do
        assert.is_nil(require("cjson").encode(entry):find(secret, 1, true))
      end
      assert.is_nil(table.concat(c.logged, "\n"):find(secret, 1, true))
    end)

    it("expire at their second, and say so to whoever holds them", function()
      local c = databases.central(kind)
      c:user("alice")
      local short, long = c:token("alice", { expiresIn = 10 }), c:token("alice", { expiresAt = "2999-01-01T00:00:00Z" })
      assert.equal(200, c:ask("GET", "/api/v1/whoami", short).status)
      c.clock.now = c.clock.now + 9.9
      assert.equal(200, c:ask("GET", "/api/v1/whoami", short).status)
      c.clock.now = c.clock.now + 0.1
      assert.equal("expired_token", c:code("GET", "/api/v1/whoami", short))
      assert.equal(200, c:ask("GET", "/api/v1/whoami", long).status)
      for _, bad in ipairs{ { expiresIn = 0 }, { expiresIn = 1.5 }, { expiresAt = "2001-01-01T00:00:00Z" },
        { expiresAt = "tomorrow" }, { expiresAt = "2026-02-30T00:00:00Z" },
        { expiresIn = 1, expiresAt = "2999-01-01T00:00:00Z" },
        { expiresIn = 1e300 } } do
        bad.user = "alice"
        assert.equal(400, c:ask("POST", "/api/v1/tokens", c.admin, bad).status)
      end
    end)

    it("are revoked by an admin or by their own user, for good", function()
      local c = databases.central(kind)
      local alice, bob = c:user("alice"), c:user("bob")
      local function id_of(token) return token:match("^dpt_(%w+)_") end
      assert.equal(403, c:ask("DELETE", "/api/v1/tokens/" .. id_of(alice), bob).status)
      assert.equal(403, c:ask("DELETE", "/api/v1/tokens/" .. ids.new(), bob).status)
      assert.equal(404, c:ask("DELETE", "/api/v1/tokens/" .. ids.new(), c.admin).status)
      assert.equal(200, c:ask("DELETE", "/api/v1/tokens/" .. id_of(alice), c.admin).status)
      assert.equal("revoked_token", c:code("GET", "/api/v1/whoami", alice))
      assert.equal(200, c:ask("DELETE", "/api/v1/tokens/" .. id_of(bob), bob).status)
      assert.equal("revoked_token", c:code("GET", "/api/v1/whoami", bob))
      assert.equal(403, c:ask("POST", "/api/v1/tokens", c:token("bob"), { user = "bob" }).status)
    end)

    it("say what became of them to nobody who has the id alone", function()
      local c = databases.central(kind)
      local revoked, expired, disabled = c:user("alice"), c:user("bob", { expiresIn = 1 }), c:user("carol")
      assert.equal(200, c:ask("DELETE", "/api/v1/tokens/" .. revoked:match("^dpt_(%w+)_"), c.admin).status)
      assert.equal(200, c:ask("PUT", "/api/v1/users/carol", c.admin, { disabled = true }).status)
      c.clock.now = c.clock.now + 2
      for code, token in pairs{ revoked_token = revoked, expired_token = expired, disabled_user = disabled } do
        assert.equal(code, c:code("GET", "/api/v1/whoami", token))
        local last = token:sub(-1) == "0" and "1" or "0"
        assert.equal("invalid_token", c:code("GET", "/api/v1/whoami", token:sub(1, -2) .. last))
      end
    end)

    it("that end while a change of theirs waits for the database end it, too", function()
      local c = databases.central(kind)
      local ways = {
        revoked_token = function(id) c:ask("DELETE", "/api/v1/tokens/" .. id, c.admin) end,
        expired_token = function() c.clock.now = c.clock.now + 20 end,
        disabled_user = function() c:ask("PUT", "/api/v1/users/alice", c.admin, { disabled = true }) end,
      }
      c:user("alice")
      c:grant{ user = "alice", role = "create" }
      for code, finish in pairs(ways) do
        c:ask("PUT", "/api/v1/users/alice", c.admin, { disabled = false })
        local id = c:token("alice", { expiresIn = 10 }):match("^dpt_(%w+)_")
        local actor = { kind = "user", name = "alice", token_id = id }
        local input = { name = code, url = "http://127.0.0.1:9/v1" }
        assert.is_truthy(c.service:create_llm(actor, input))
        finish(id)
        input.name = code .. "-2"
        local made, why = c.service:create_llm(actor, input)
        assert.same({ nil, code }, { made, why and why.code })
      end
    end)

    it("show their own user his own alone", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      c:user("bob")
      local reply = c:ask("GET", "/api/v1/tokens", alice)
      assert.equal(1, #reply.json.data)
      assert.equal("alice", reply.json.data[1].user)
      assert.equal(403, c:ask("GET", "/api/v1/tokens?user=bob", alice).status)
      assert.equal(403, c:ask("GET", "/api/v1/tokens?user=nobody", alice).status)
      assert.equal(200, c:ask("GET", "/api/v1/tokens?user=alice", alice).status)
      assert.equal(3, #c:ask("GET", "/api/v1/tokens", c.admin).json.data)
    end)

    it("are bounded for each user, and those that ended make room", function()
      local c = databases.central(kind)
      c:user("alice")
      tokens.MAX_PER_USER = 4
      finally(function() tokens.MAX_PER_USER = 1000 end)
      local function code() return c:code("POST", "/api/v1/tokens", c.admin, { user = "alice", expiresIn = 10 }) end
      for _ = 1, 3 do assert.is_nil(code()) end
      assert.equal("too_many", code())
      c.clock.now = c.clock.now + 10
      for _ = 1, 3 do assert.is_nil(code()) end
      assert.equal("too_many", code())
      assert.equal(4, #c:ask("GET", "/api/v1/tokens?user=alice", c.admin).json.data)
    end)

    it("that ended are remembered, each user's own, for as long as they say", function()
      local c = databases.central(kind)
      tokens.MAX_PER_USER = 3
      finally(function() tokens.MAX_PER_USER = 1000 end)
      local function revoke(token)
        assert.equal(200, c:ask("DELETE", "/api/v1/tokens/" .. token:match("^dpt_(%w+)_"), c.admin).status)
      end
      local function said(token) return c:code("GET", "/api/v1/whoami", token) end
      local revoked, expired = { c:user("alice"), c:user("bob") }, {}
      for i, user in ipairs{ "alice", "bob" } do
        expired[i] = c:token(user, { expiresIn = 1 })
        revoke(revoked[i])
      end
      c.clock.now = c.clock.now + 89 * 86400
      c:token("alice")
      c:token("alice") -- as many as there can be, with the expired one
      assert.same({ "revoked_token", "expired_token" }, { said(revoked[1]), said(expired[1]) })
      local newest = c:token("alice") -- takes the expired one's place
      assert.same({ "revoked_token", "invalid_token" }, { said(revoked[1]), said(expired[1]) })
      c.clock.now = c.clock.now + 2 * 86400
      assert.equal("too_many", c:code("POST", "/api/v1/tokens", c.admin, { user = "alice" }))
      revoke(newest) -- which makes room at once
      c:token("alice")
      assert.same({ "revoked_token", "expired_token" }, { said(revoked[2]), said(expired[2]) })
    end)

    it("are revoked once: when that was stays", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      local id = alice:match("^dpt_(%w+)_")
      local function revoked_at()
        c:ask("DELETE", "/api/v1/tokens/" .. id, c.admin)
        return c:ask("GET", "/api/v1/tokens?user=alice", c.admin).json.data[1].revokedAt
      end
      local first = revoked_at()
      c.clock.now = c.clock.now + 60
      assert.equal(first, revoked_at())
      assert.is_string(first)
    end)

    it("have their last use written down, in batches", function()
      local c = databases.central(kind)
      local alice = c:user("alice")
      local function last_use() return c:ask("GET", "/api/v1/tokens?user=alice", c.admin).json.data[1].lastUsedAt end
      for _ = 1, 100 do c:ask("GET", "/api/v1/whoami", alice) end
      assert.is_nil(last_use())
      c.clock.now = c.clock.now + 60
      c.app:tick()
      local first = last_use()
      assert.matches("^%d%d%d%d%-%d%d%-%d%dT", first)
      c.clock.now = c.clock.now + 60
      c:ask("GET", "/api/v1/whoami", alice)
      c:close()
      local again = databases.central(c.url, { shared = true })
      local row = again.service.database:one("SELECT last_used_at FROM tokens t JOIN subjects s ON s.id = t.user_id "
        .. "WHERE s.name = 'alice'")
      assert.is_true(row[1] > first)
    end)
  end)
end

-- A database far away, where each write takes 50 ms of everybody's time.
local function slow_database(elapsed)
  local database = { written = {} }
  function database.one() return nil end
  function database:run(_, _, id)
    elapsed.now = elapsed.now + 0.05
    self.written[#self.written + 1] = id
  end
  function database.note(_, write) return pcall(write) end
  return database
end

describe("The last uses of tokens", function()
  local elapsed, database, auth
  before_each(function()
    elapsed = { now = 0 }
    database = slow_database(elapsed)
    auth = auths.new(database, { elapsed = function() return elapsed.now end })
  end)

  it("are written for a fifth of a second at once, and the others the next time", function()
    for i = 1, 20 do auth:note_use("t" .. i, "now") end
    auth:flush()
    assert.is_true(#database.written > 0 and elapsed.now <= 0.3)
    for _ = 1, 20 do auth:flush() end
    assert.equal(20, #database.written)
    auth:flush()
    assert.equal(20, #database.written)
  end)

  it("are kept of so many tokens, and no more", function()
    for i = 1, 10050 do auth:note_use("t" .. i, "now") end
    local before
    repeat
      before = #database.written
      auth:flush()
    until #database.written == before
    assert.equal(10000, before)
  end)
end)

describe("A token", function()
  it("is only taken whole and in its form", function()
    local _, _, token = tokens.new()
    assert.is_truthy(tokens.parse("Bearer " .. token))
    assert.is_truthy(tokens.parse("bearer  " .. token))
    for _, header in ipairs{
      token, "Basic " .. token, "Bearer" .. token, "Bearer " .. token .. " ", "Bearer " .. token .. "\n", "Bearer ",
      "Bearer dpt__x", "Bearer " .. token:upper(), " Bearer " .. token, "Bearer " .. ("x"):rep(10000),
      "Bearer " .. token .. "," .. token,
    } do
      local id, code = tokens.parse(header)
      assert.is_nil(id, header)
      assert.equal("invalid_token", code)
    end
    for _, header in ipairs{ false, "" } do
      assert.same({ nil, "missing_token" }, { tokens.parse(header or nil) })
    end
  end)

  it("matches its own hash alone: not one bit less, and nothing where there is none", function()
    local _, hash, token = tokens.new()
    local secret = token:match("_(%w+)$")
    assert.is_true(tokens.matches(hash, secret))
    assert.is_false(tokens.matches(nil, secret))
    assert.is_false(tokens.matches("", secret))
    assert.is_false(tokens.matches(hash:sub(1, 63), secret))
    for at = 1, 64 do
      local digit = hash:sub(at, at) == "0" and "1" or "0"
      assert.is_false(tokens.matches(hash:sub(1, at - 1) .. digit .. hash:sub(at + 1), secret))
    end
    assert.is_false(tokens.matches(("0"):rep(64), secret))
  end)

  it("is compared without a look at where the difference is", function()
    -- By its text: no early end, no == between hashes. A timing would only measure this machine.
    local file = assert(io.open("lua/central/tokens.lua"))
    local body = file:read("a"):match("function tokens%.equals.-\nend\n")
    file:close()
    assert.matches("%(a ~ words%[1%]%) | %(b ~ words%[2%]%) | .* %(d ~ words%[4%]%)", body)
    assert.is_nil(body:find("return.*return"))
  end)
end)

describe("An id", function()
  it("is a CUID2 of 24 characters, never the same twice", function()
    local seen, first = {}, {}
    for _ = 1, 20000 do
      local id = ids.new()
      assert.is_true(ids.is_id(id))
      assert.is_nil(seen[id])
      seen[id] = true
      first[id:sub(1, 1)] = true
    end
    local letters = 0
    for _ in pairs(first) do letters = letters + 1 end
    assert.equal(26, letters)
  end)

  it("uses every character about as often as the others", function()
    local counts = {}
    for _ = 1, 5000 do
      for char in ids.new():sub(2):gmatch(".") do counts[char] = (counts[char] or 0) + 1 end
    end
    local expected = 5000 * 23 / 36
    for char, count in pairs(counts) do
      assert.is_true(math.abs(count - expected) < 0.15 * expected, char)
    end
  end)

  it("is told apart from a name by its shape", function()
    for _, text in ipairs{ "", "claude", ("a"):rep(23), ("a"):rep(25), "1" .. ("a"):rep(23), ("A"):rep(24),
      ("a"):rep(23) .. "-" } do
      assert.is_false(ids.is_id(text))
    end
    assert.is_true(ids.is_id(("a"):rep(24)))
  end)
end)
