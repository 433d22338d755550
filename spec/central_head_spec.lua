-- HEAD is GET without its body: for every caller, LLM, id or name, and state. And what requests may look like.
local databases = require "spec.support.central_db"

local function same(c, target, token)
  local get, head = c:ask("GET", target, token), c:ask("HEAD", target, token)
  local what = target .. " as " .. tostring(token)
  assert.equal(get.status, head.status, what)
  assert.is_nil(head.body, what)
  assert.equal(tostring(#get.body), head.headers["content-length"], what)
  head.headers["content-length"] = nil
  get.headers["content-length"] = nil
  assert.same(get.headers, head.headers, what)
  assert.equal(get.user, head.user, what)
  return get.status
end

local STATES = {
  ready = {}, paused = { paused = true }, disabled = { enabled = false },
  ["paused and disabled"] = { paused = true, enabled = false }, ["odd / name ü%"] = {},
}

for _, kind in ipairs(databases.KINDS) do
  describe("HEAD on " .. kind, function()
    teardown(databases.stop)
    after_each(databases.close)

    it("equals GET for every caller, LLM, id or name, and state", function()
      local c = databases.central(kind)
      local keys = { "nobody-knows-this", ("a"):rep(24), "%", "%00", "%2e", "..", ("x"):rep(129), "%ff", "a%2Fb" }
      for name, state in pairs(STATES) do
        local llm = c:llm(name, state)
        keys[#keys + 1] = llm.id
        keys[#keys + 1] = name:gsub("[^%w]", function(byte) return ("%%%02x"):format(byte:byte()) end)
      end
      local callers = {
        false, "no token at all", "dpt_" .. ("a"):rep(24) .. "_" .. ("0"):rep(40), c.admin, c.admin .. "x",
        c.admin:sub(1, -2) .. (c.admin:sub(-1) == "0" and "1" or "0"),
      }
      for _, role in ipairs{ "view", "run", "edit" } do
        callers[#callers + 1] = c:user(role)
        c:grant{ user = role, role = role }
      end
      callers[#callers + 1] = c:user("nothing")
      callers[#callers + 1] = c:user("denied")
      c:grant{ user = "denied", role = "view" }
      c:grant{ user = "denied", role = "view", llm = "ready", effect = "deny" }
      callers[#callers + 1] = c:token("view", { expiresIn = 1 })
      local made = c:service_as_admin("create_token", { user = "view" })
      c:service_as_admin("revoke_token", made.id)
      callers[#callers + 1] = made.token
      callers[#callers + 1] = c:user("off")
      c:service_as_admin("update_user", "off", { disabled = true })
      c.clock.now = c.clock.now + 2

      local seen = {}
      for _, caller in ipairs(callers) do
        for _, key in ipairs(keys) do
          for _, form in ipairs{ "/api/v1/llms/%s", "/v1/models/%s", "/api/v1/llms/%s?disabled=show",
            "/api/v1/llms/%s?x=1" } do
            local status = same(c, (form:gsub("%%s", (key:gsub("%%", "%%%%")))), caller or nil)
            seen[status] = (seen[status] or 0) + 1
          end
        end
        for _, path in ipairs{ "/api/v1/llms", "/v1/models", "/api/v1/whoami", "/api/v1/users", "/api/v1/audit?limit=1",
          "/api/v1/llms?limit=0", "/api/v1/llms/x/infer", "/v1/chat/completions", "/", "/api", "/api/v1/llms/" } do
          if path:find("audit") then
            -- Each look at the log may add a refusal to it.
            assert.equal(c:ask("GET", path, caller or nil).status, c:ask("HEAD", path, caller or nil).status)
          else
            same(c, path, caller or nil)
          end
        end
      end
      for _, status in ipairs{ 200, 400, 401, 403, 404 } do assert.is_true((seen[status] or 0) > 0, status) end
    end)

    it("has the same reply again after a change, not the one before", function()
      local c = databases.central(kind)
      local llm = c:llm("claude")
      local lengths = {}
      for i, description in ipairs{ "", "longer", "longer still", "" } do
        c:service_as_admin("update_llm", "claude", { description = description })
        same(c, "/api/v1/llms/claude", c.admin)
        same(c, "/api/v1/llms/" .. llm.id, c.admin)
        lengths[i] = tonumber(c:ask("HEAD", "/api/v1/llms/claude", c.admin).headers["content-length"])
      end
      assert.equal(lengths[1] + 6, lengths[2])
      assert.equal(lengths[1] + 12, lengths[3])
    end)
  end)
end

describe("A request to the central", function()
  teardown(databases.stop)
  after_each(databases.close)

  it("has its name decoded exactly once, and taken by its bytes", function()
    local c = databases.central("sqlite")
    for _, name in ipairs{
      "a%2Fb", "a/b", "A/b", "a b", "a+b", "ünï", "a?b", "a#b", "..a", "'; DROP TABLE llms; --",
    } do
      local llm = c:llm(name)
      local escaped = name:gsub("[^%w]", function(byte) return ("%%%02X"):format(byte:byte()) end)
      assert.equal(llm.id, c:ask("GET", "/api/v1/llms/" .. escaped, c.admin).json.id)
    end
    assert.equal("a+b", c:ask("GET", "/api/v1/llms/a+b", c.admin).json.name)
    assert.equal(404, c:ask("GET", "/api/v1/llms/a%252525Fb", c.admin).status)
    assert.equal("a%2Fb", c:ask("GET", "/api/v1/llms/a%252Fb", c.admin).json.name)
  end)

  it("may not make or ask for a name that no path can hold", function()
    local c = databases.central("sqlite")
    local id = c:llm("claude").id
    for name, words in pairs{
      [""] = "empty", ["."] = '"."', [".."] = '".."', [("x"):rep(129)] = "128", ["a\nb"] = "control",
      ["a\0b"] = "control", ["a\127"] = "control", ["\xff"] = "UTF-8", [id] = "looks like an id",
      [" a"] = "space", ["a "] = "space",
    } do
      for _, path in ipairs{ "llms", "users", "groups" } do
        local input = { name = name, url = path == "llms" and "http://h" or nil }
        local body = require("cjson").encode(input)
        local reply = c:ask("POST", "/api/v1/" .. path, c.admin, body)
        assert.equal(400, reply.status, path .. " " .. name)
        assert.matches(words, reply.json.error.message, 1, true)
      end
    end
    assert.equal(201, c:ask("POST", "/api/v1/llms", c.admin, { name = ("x"):rep(128), url = "http://h" }).status)
    assert.equal(200, c:ask("GET", "/api/v1/llms/" .. ("x"):rep(128), c.admin).status)
  end)

  it("gets an error that says what was expected, what came and where", function()
    local c = databases.central("sqlite")
    c:llm("claude")
    local function refused(status, code, pattern, ...)
      local reply = c:ask(...)
      assert.equal(status, reply.status)
      assert.equal(code, reply.json.error.code)
      assert.matches(pattern, reply.json.error.message)
    end
    local post = { "POST", "/api/v1/llms", c.admin }
    refused(400, "invalid_json", "not JSON: .*character", post[1], post[2], post[3], "{")
    refused(400, "invalid_request", "an object", post[1], post[2], post[3], "[1]")
    refused(400, "invalid_request", "an object", post[1], post[2], post[3], '"x"')
    refused(400, "invalid_request", "empty", post[1], post[2], post[3], "")
    refused(400, "invalid_request", 'nmae: .*did you mean "name"', post[1], post[2], post[3], { nmae = "x" })
    refused(400, "invalid_request", "url: missing", post[1], post[2], post[3], { name = "x" })
    refused(400, "invalid_request", "url: .*http://", post[1], post[2], post[3], { name = "x", url = "ftp://h" })
    refused(400, "invalid_request", "url: .*user", post[1], post[2], post[3], { name = "x", url = "http://u:p@h" })
    refused(400, "invalid_request", "url: .*query", post[1], post[2], post[3], { name = "x", url = "http://h/?k=1" })
    refused(400, "invalid_request", "apiKeyEnv: .*variable", post[1], post[2], post[3],
      { name = "x", url = "http://h", apiKeyEnv = "sk-secret" })
    refused(400, "invalid_request", "keep one", post[1], post[2], post[3],
      { name = "x", url = "http://h", apiKeyEnv = "K", apiKeyFile = "/k" })
    refused(400, "invalid_request", "enabled: expected true or false", post[1], post[2], post[3],
      { name = "x", url = "http://h", enabled = 1 })
    refused(400, "invalid_request", "name: must not be null", "PUT", "/api/v1/llms/claude", c.admin, '{"name":null}')
    refused(409, "name_taken", '"claude"', post[1], post[2], post[3], { name = "claude", url = "http://h" })
    refused(413, "body_too_large", "65536", post[1], post[2], post[3], (" "):rep(65537))
    refused(400, "invalid_request", "limit: expected a whole number", "GET", "/api/v1/llms?limit=x", c.admin)
    refused(400, "invalid_request", "limit: .*1 to 1000", "GET", "/api/v1/llms?limit=1001", c.admin)
    refused(400, "invalid_request", 'lmit: .*"limit"', "GET", "/api/v1/llms?lmit=1", c.admin)
    refused(400, "invalid_request", "twice", "GET", "/api/v1/llms?limit=1&limit=2", c.admin)
    for _, name in ipairs{ "role", "rol\\u0065" } do
      refused(400, "invalid_request", "a name stands twice in the body", "POST", "/api/v1/bindings", c.admin,
        ('{"user":"root","role":"view","%s":"admin"}'):format(name))
    end
    refused(400, "invalid_request", "user: expected", "POST", "/api/v1/bindings", c.admin,
      '{"role":"view","user":{"a":1,"a":2}}')
    assert.equal(201, c:ask("POST", "/api/v1/users", c.admin, '{"name":"\\"a\\\\:\\u003a\\\\","kind":null}').status)
    refused(404, "not_found", "nothing is served", "GET", "/api/v2/llms", c.admin)
    refused(404, "not_found", "nothing is served", "GET", "*", c.admin)
    local reply = c.app:handle{
      method = "POST", target = "/api/v1/llms", authorization = "Bearer " .. c.admin, body = "{}", peer = "p", id = "i",
      content_type = "text/plain",
    }
    assert.equal(415, reply.status)
    reply = c:ask("PATCH", "/api/v1/llms/claude", c.admin)
    assert.equal(405, reply.status)
    assert.equal("DELETE, GET, HEAD, PUT", reply.headers.allow)
    assert.equal('Bearer realm="deputy"', c:ask("GET", "/api/v1/llms").headers["www-authenticate"])
    reply = c:ask("POST", "/v1/messages?beta=true", nil, "{}", "claude")
    assert.equal("authentication_error", reply.json.error.type)
    assert.equal("error", reply.json.type)
    for _, path in ipairs{ "/api/v1/llms/claude", "/api/v1/llms", "/v1/models" } do
      assert.equal("no-store", c:ask("GET", path, c.admin).headers["cache-control"])
    end
  end)

  it("is not carried out when its query says what nobody understands", function()
    local c = databases.central("sqlite")
    local llm = c:llm("claude")
    local alice = c:user("alice")
    local binding = c:grant{ user = "alice", role = "run" }
    local function refused(method, target, body)
      for query, pattern in pairs{ ["dryRun=true"] = "dryRun: not a known key", ["foce=true"] = "foce: not a known key",
        ["%zz"] = "escape", ["force=true&force=true"] = "twice" } do
        local asked = target .. (target:find("?", 1, true) and "&" or "?") .. query
        local reply = c:ask(method, asked, c.admin, body)
        assert.equal(400, reply.status, method .. " " .. asked)
        assert.matches(pattern, reply.json.error.message)
        assert.equal(403, c:ask(method, asked, alice, body).status, method .. " " .. asked)
        assert.equal(401, c:ask(method, asked, nil, body).status)
      end
    end
    refused("DELETE", "/api/v1/llms/claude")
    refused("PUT", "/api/v1/llms/claude", { name = "other" })
    refused("POST", "/api/v1/llms", { name = "new", url = "http://h" })
    refused("POST", "/api/v1/llms/claude/pause")
    refused("GET", "/api/v1/users/alice")
    refused("POST", "/api/v1/users", { name = "bob" })
    refused("DELETE", "/api/v1/users/alice")
    refused("POST", "/api/v1/tokens", { user = "alice" })
    refused("POST", "/api/v1/bindings", { user = "alice", role = "view" })
    refused("DELETE", "/api/v1/bindings?user=alice&role=run")
    refused("DELETE", "/api/v1/bindings/" .. binding.id)
    assert.equal(400, c:ask("GET", "/api/v1/whoami?x=1", alice).status)
    assert.same(llm, c:ask("GET", "/api/v1/llms/claude", c.admin).json)
    for path, count in pairs{ llms = 1, users = 2, tokens = 2, bindings = 2 } do
      assert.equal(count, #c:ask("GET", "/api/v1/" .. path, c.admin).json.data, path)
    end
    assert.equal(200, c:ask("DELETE", "/api/v1/bindings?user=alice&role=run&force=false", c.admin).status)
    assert.equal(200, c:ask("DELETE", "/api/v1/users/alice?force=false", c.admin).status)
  end)

  for _, kind in ipairs(databases.KINDS) do
    it("may be whatever it is: it never fails inside, on " .. kind, function()
      local c = databases.central(kind)
      c:llm("claude")
      local alice = c:user("alice")
      math.randomseed(7)
      local function any(list) return list[math.random(#list)] end
      local paths = {
        "llms", "users", "groups", "tokens", "bindings", "audit", "whoami", "groups/g/members", "llms/claude",
        "users/alice", "llms/claude/infer", "llms/claude/pause", "tokens/x", "bindings/x", "groups/g/members/alice",
      }
      local pieces = {
        "/", "?", "?limit=", "?after=", "?before=", "?user=", "?llm=", "&role=view", "%", "%00", "%2F", "..", "\xff",
        "-1", "9999999999999999999", "1e9", "0x10", "'", "claude", ("a"):rep(24), ("x"):rep(200), "=", "+",
        "?force=true",
      }
      local bodies = {
        "", "{", "{}", "[]", "null", "1", '"x"', '{"name":null}', '{"name":1}', '{"name":{}}', '{"name":["a"]}',
        '{"user":"alice","role":"view","llm":1}', '{"user":{},"role":[]}', '{"user":"alice","expiresIn":1e308}',
        '{"user":"alice","expiresIn":99999999999999999999}', '{"name":"\\u0000"}', '{"name":"\xff","url":"http://h"}',
        '{"name":"ok","url":"http://h\\u0000"}', '{"description":"\\u0000"}', '{"model":""}', '{"paused":null}',
        '{"apiKeyFile":"/k\\u0000"}', '{"1":2}', '{"user":null}', '{"name":"new","url":"http://h"}', '{"name":"g"}',
        '{"a":' .. ("["):rep(50) .. ("]"):rep(50) .. "}", '{"user":"alice","role":"view"}', '{"user":"alice"}',
      }
      local seen = {}
      for _ = 1, 10000 do
        local target = "/api/v1/" .. any(paths)
        for _ = 1, math.random(0, 2) do target = target .. any(pieces) end
        local method = any{ "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH" }
        local reply = c.app:handle{
          method = method, target = target, authorization = "Bearer " .. any{ c.admin, c.admin, c.admin, alice, "x" },
          content_type = any{ "application/json", "application/json; charset=utf-8", "text/plain" },
          body = any(bodies), model = any{ "claude", "", "x\ny", "\xff" }, peer = "p", id = "i",
        }
        local status = reply.forward and 200 or reply.status
        assert.is_true(status < 500 or reply.body:find("llm_paused", 1, true) ~= nil, method .. " " .. target)
        assert.is_true(method ~= "HEAD" or reply.body == nil)
        seen[status] = true
      end
      for _, status in ipairs{ 200, 201, 400, 401, 403, 404, 405, 409, 415 } do assert.is_true(seen[status], status) end
      assert.is_nil(table.concat(c.logged, "\n"):find("error", 1, true))
    end)
  end

  it("is answered with 500, and the log says more, when the central itself is at fault", function()
    local c = databases.central("sqlite")
    c.app.auth.check = function() error("deliberate") end
    assert.equal(500, c:ask("GET", "/api/v1/llms/x", c.admin).status)
    assert.equal(500, c.app:authorize{ method = "POST", target = "/v1/responses" }.status)
    assert.matches("deliberate", table.concat(c.logged, "\n"))
  end)

  it("for inference is decided from its head as far as that goes, and forwarded with what it needs", function()
    local c = databases.central("sqlite")
    local llm = c:llm("claude", { apiKeyFile = "/run/key", model = "upstream", url = "https://h.example/v1" })
    local runner, viewer = c:user("runner"), c:user("viewer")
    c:grant{ user = "runner", role = "run" }
    c:grant{ user = "viewer", role = "view" }
    local function early(target, token)
      local reply = c.app:authorize{
        method = "POST", target = target, authorization = token and "Bearer " .. token, peer = "p",
      }
      return reply and reply.status
    end
    assert.is_nil(early("/v1/chat/completions", viewer))
    assert.equal(401, early("/v1/chat/completions", nil))
    assert.is_nil(early("/api/v1/llms/claude/infer", runner))
    assert.equal(403, early("/api/v1/llms/claude/infer", viewer))
    assert.equal(403, early("/api/v1/llms/nope/infer", viewer))
    assert.equal(404, early("/api/v1/llms/nope/infer", runner))
    for target, shape in pairs{
      ["/v1/chat/completions"] = { "chat/completions", "openai" }, ["/v1/completions"] = { "completions", "openai" },
      ["/v1/embeddings"] = { "embeddings", "openai" }, ["/v1/responses"] = { "responses", "responses" },
      ["/v1/messages?beta=true"] = { "messages", "messages" },
      ["/api/v1/llms/claude/infer"] = { "chat/completions", "openai" },
    } do
      local reply = c:ask("POST", target, runner, "{}", not target:find("infer") and "claude" or nil)
      assert.same(shape, { reply.endpoint, reply.dialect })
      assert.equal("runner", reply.user)
      assert.same({
        key = llm.id .. "@1@" .. llm.updatedAt, name = "claude", llm = llm.id, type = "openai",
        url = "https://h.example/v1",
        model = "upstream", api_key_file = "/run/key",
      }, reply.forward)
      assert.equal(403, c:ask("POST", target, viewer, "{}", "claude").status)
    end
    assert.equal(400, c:ask("POST", "/v1/chat/completions", runner, "{}").status)
    local updated = c:service_as_admin("update_llm", "claude", { apiKeyEnv = "K" }).updatedAt
    local forward = c:ask("POST", "/v1/chat/completions", runner, "{}", llm.id).forward
    assert.equal(llm.id .. "@2@" .. updated, forward.key)
    assert.same({ "K", nil }, { forward.api_key_env, forward.api_key_file })
  end)
end)
