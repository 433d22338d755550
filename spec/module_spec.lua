-- The module as a whole: loading it, its life, and router:complete, the HTTP form of a run.
local deputy = require "deputy"
local cjson = require "cjson"
local lfs = require "lfs"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local POLICY = "lua/router.lua"
local TOKEN = "tok-alice"
local SETTINGS = { retries = 0, breaker = false }
local BODY = '{"model":"claude","messages":[{"role":"user","content":"hello there"}],"big":12345678901234567890,"e":[]}'
local STREAM = '{"model":"claude","stream":true,"messages":[{"role":"user","content":"one two three"}]}'

describe("the module", function()
  it("has a version, the one of the header", function()
    assert.equal(tmp.read("include/deputy.h"):match('DEPUTY_VERSION "(.-)"'), deputy.version)
  end)

  local preload = os.getenv("LUA_PRELOAD") or false -- a sanitizer's

  local function lua(script)
    return shell.run{ "lua5.4", "-e", ('package.cpath = %q '):format(package.cpath) .. script,
      env = { LD_PRELOAD = preload } }
  end

  it("works in plain lua5.4, leaves no globals and writes nothing", function()
    local r = lua[[
      local before = {}
      for name in pairs(_G) do before[name] = true end
      local deputy = require "deputy"
      local registry = deputy.registry()
      registry:register(deputy.echo("e"))
      registry:register_failover("claude", "e")
      local router = deputy.router(registry, { policy = "lua/router.lua", bearer_token = "t",
        probe = function() return 200 end })
      assert(router:run("claude", function() error("x") end, function() return 1 end).via == "e")
      for name in pairs(_G) do assert(before[name], name) end]]
    assert.same({ 0, "", "" }, { r.status, r.stdout, r.stderr })
  end)

  it("closes cleanly in any order, at the end or with os.exit, also from inside a callback", function()
    local setup = [[
      local deputy = require "deputy"
      registry = deputy.registry()
      router = deputy.router(registry, { policy = "lua/router.lua" })
      echo = deputy.echo("e")
      registry:register(echo)
      echo:complete("{}")]]
    assert.equal(0, lua(setup .. " registry = nil collectgarbage() router = nil collectgarbage()").status)
    assert.equal(0, lua(setup .. " router = nil echo = nil collectgarbage()").status)
    assert.equal(0, lua(setup .. " os.exit(true, true)").status)
    assert.equal(7, lua(setup .. " router:run('x', function() os.exit(7) end)").status)
  end)

  it("can be loaded into several states of one process, one after the other", function()
    local r = lua[[
      local deputy = require "deputy"
      package.loaded.deputy = nil
      local again = require "deputy"
      assert(again.router(deputy.registry(), { policy = "lua/router.lua" }):check_auth("x") == "unreachable")]]
    assert.same({ 0, "" }, { r.status, r.stderr })
  end)

  describe("finds the policy that came with it", function()
    local source = assert(package.searchpath("deputy", package.cpath))

    local function try(dir, deputy_lua)
      local r = shell.run{ "lua5.4", "-e", ('package.cpath = "%s/?.so" '):format(dir) .. [[
        local deputy = require "deputy"
        print(pcall(deputy.router, deputy.registry(), {}))]],
        env = { DEPUTY_LUA = deputy_lua or false, LD_PRELOAD = preload } }
      return r.stdout .. r.stderr
    end

    local function tree(module_dir, policy_dir)
      local top = tmp.dir()
      for _, dir in ipairs{ module_dir, policy_dir } do
        local at = top
        for part in dir:gmatch("[^/]+") do
          at = at .. "/" .. part
          lfs.mkdir(at)
        end
      end
      tmp.write(top .. "/" .. module_dir, "deputy.so", tmp.read(source))
      return top
    end

    it("in a build tree", function()
      local top = tree("build", "lua")
      tmp.write(top .. "/lua", "router.lua", tmp.read(POLICY))
      assert.matches("^true", try(top .. "/build"))
    end)

    it("in an installed copy, wherever that stands", function()
      local top = tree("usr/lib/lua/5.4", "usr/share/deputy/lua")
      tmp.write(top .. "/usr/share/deputy/lua", "router.lua", tmp.read(POLICY))
      assert.matches("^true", try(top .. "/usr/lib/lua/5.4"))
    end)

    it("where DEPUTY_LUA says, and nowhere else then", function()
      local top = tree("build", "lua")
      assert.matches("^true", try(top .. "/build", lfs.currentdir() .. "/lua"))
      tmp.write(top .. "/lua", "router.lua", tmp.read(POLICY))
      assert.matches("was not found: give policy =", try(top .. "/build", top .. "/nowhere"))
    end)
  end)
end)

describe("router:complete", function()
  local central, registry, router

  before_each(function()
    central = peers.central{
      llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } },
    }
    registry = deputy.registry()
    router = deputy.router(registry,
      { central_url = central.url, bearer_token = TOKEN, policy = POLICY, settings = SETTINGS })
  end)
  after_each(peers.stop_all)

  local function down(body)
    central:set{ inference = { status = 503, headers = { ["Content-Type"] = "application/json", ["X-Extra"] = "1" },
      body = body or '{"error":{"message":"down"}}' } }
  end

  local function stand_in(provider)
    registry:register(provider)
    registry:register_failover("claude", provider.name)
  end

  local function content(reply)
    return cjson.decode(reply.body).choices[1].message.content
  end

  it("answers from the central, byte for byte", function()
    local reply = assert(router:complete{ llm = "claude", body = BODY })
    assert.equal(200, reply.status)
    assert.equal("Hello from central", content(reply))
    assert.equal("application/json", reply.headers["content-type"])
    assert.is_false(reply.failover)
    assert.is_nil(reply.via)
    assert.equal("ok", reply.trace[1].kind)
    local log = central:log()
    assert.equal(1, #log)
    assert.equal(BODY, log[1].body)
    assert.equal("Bearer " .. TOKEN, log[1].headers.authorization)
  end)

  it("carries the caller's own token and headers", function()
    assert(router:complete{ llm = "claude", body = "{}", bearer_token = TOKEN, endpoint = "embeddings",
      headers = { ["X-Trace"] = "abc", Authorization = "Bearer forged", Cookie = "c=1" } } == nil)
    local request = central:log()[1]
    assert.equal("/v1/embeddings", request.target)
    assert.equal("abc", request.headers["x-trace"])
    assert.equal("Bearer " .. TOKEN, request.headers.authorization)
    assert.is_nil(request.headers.cookie)
  end)

  it("lets a local server stand in when the central fails and the probe allows", function()
    local model = peers.openai{ models = { "qwen3" }, reply = "from the local model" }
    down()
    stand_in(deputy.openai{ name = "local", url = model.url .. "/v1", model = "qwen3" })
    local reply = assert(router:complete{ llm = "claude", body = BODY })
    assert.equal("from the local model", content(reply))
    assert.is_true(reply.failover)
    assert.equal("local", reply.via)
    assert.equal((BODY:gsub('"claude"', '"qwen3"')), model:log()[1].body)
    assert.is_false(model:saw(TOKEN))
    assert.equal(1, central:count("HEAD"))
  end)

  it("gives the primary's own error when the probe forbids, and no byte to the local server", function()
    local listener = peers.listener{}
    down('{"error":{"message":"down","code":"overloaded"}}')
    central:revoke(TOKEN, "*", "view")
    stand_in(deputy.openai{ name = "local", url = listener.url .. "/v1" })
    local reply, failure, primary = router:complete{ llm = "claude", body = BODY }
    assert.is_nil(reply)
    assert.same({ "status", 503, "overloaded" }, { failure.kind, failure.status, failure.code })
    assert.equal(503, primary.status)
    assert.equal('{"error":{"message":"down","code":"overloaded"}}', primary.body)
    assert.equal("1", primary.headers["x-extra"])
    assert.is_false(primary.failover)
    assert.equal(0, listener:bytes())
  end)

  it("has no reply to show when there was none", function()
    central:stop()
    local reply, failure, primary = router:complete{ llm = "claude", body = BODY }
    assert.is_nil(reply)
    assert.equal("connect", failure.kind)
    assert.is_nil(primary)
    assert.matches("^connect: ", tostring(failure))
  end)

  it("streams as one text", function()
    local reply = assert(router:complete{ llm = "claude", body = STREAM })
    assert.equal("text/event-stream", reply.headers["content-type"])
    assert.matches("data: %[DONE%]\n\n$", reply.body)
    down()
    stand_in(deputy.echo("echo"))
    reply = assert(router:complete{ llm = "claude", body = STREAM })
    assert.is_true(reply.failover)
    local words = {}
    for event in reply.body:gmatch("data: ({.-})\n\n") do
      words[#words + 1] = cjson.decode(event).choices[1].delta.content
    end
    assert.equal("one two three", table.concat(words))
  end)

  it("lets providers written in Lua stand in", function()
    local asked, answer
    down()
    stand_in{ name = "lua", complete = function(self, request)
      assert(self.name == "lua")
      asked = request
      return answer(request)
    end }
    local function complete(how, request)
      answer = how
      request = request or { llm = "claude", body = BODY, headers = { ["X-Trace"] = "abc" } }
      return router:complete(request)
    end
    local text = '{"from":"lua"}'
    local reply = assert(complete(function() return text end))
    assert.same({ 200, text, "application/json", true, "lua" },
      { reply.status, reply.body, reply.headers["content-type"], reply.failover, reply.via })
    assert.same({ "claude", "chat/completions", BODY, false }, { asked.llm, asked.endpoint, asked.body, asked.stream })
    assert.equal("abc", asked.headers["X-Trace"])
    assert.is_nil(asked.headers.Authorization or asked.headers.authorization)

    assert.equal('{"a":1}', assert(complete(function() return { a = 1 } end)).body)
    reply = assert(complete(function()
      return { status = 201, headers = { ["content-type"] = "text/plain" }, body = '{"plain":true}' }
    end))
    assert.same({ 201, "text/plain" }, { reply.status, reply.headers["content-type"] })
    local echo = deputy.echo("echo")
    reply = assert(complete(function(request) return echo:complete(request) end))
    assert.equal("hello there", content(reply))

    local events = 'data: {"choices":[{"delta":{"content":"' .. ("x"):rep(1000000) .. '"}}]}\n\n'
      .. 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    reply = assert(complete(function(request)
      assert(request.stream)
      return { headers = { ["Content-Type"] = "text/event-stream" }, body = events }
    end, { llm = "claude", body = STREAM }))
    assert.is_true(reply.body == events)
  end)

  it("gives the primary's error when a provider written in Lua fails or answers nonsense", function()
    local answer
    down()
    stand_in{ name = "lua", complete = function() return answer() end }
    for _, how in ipairs{
      function() error("oops") end, function() error({ status = 500 }) end, function() return nil, "why" end,
      function() return nil end, function() return 5 end, function() return true end,
      function() return { status = 100, body = "{}" } end, function() return { status = {}, body = "{}" } end,
      function() return { headers = { x = 1 }, body = "{}" } end, function() return { f = print } end,
      function() return "not JSON" end, function() return "" end, function() return '{"error":{"message":"x"}}' end,
      function() return { status = 500, body = "{}" } end, function() coroutine.yield() end,
      function() registry:unregister("lua") error("gone") end,
    } do
      answer = how
      local reply, failure, primary = router:complete{ llm = "claude", body = BODY }
      assert.is_nil(reply)
      assert.equal(503, failure.status)
      assert.equal(503, primary.status)
    end
    assert.is_nil(registry:failover_for("claude"))
  end)

  it("tells expected failures from misuse", function()
    local function refused(request, pattern)
      assert.error_matches(function() router:complete(request) end, pattern)
    end
    refused("claude", "expected { llm =, body =")
    refused({ body = "{}" }, "llm: expected the LLM's name, got nothing")
    refused({ llm = "claude", boddy = "{}" }, "unknown option 'boddy' %(did you mean 'body'%?%)")
    refused({ llm = "claude", body = 5 }, "body: expected a string or a table, got a number")
    refused({ llm = "claude", headers = { x = 1 } }, "headers: expected { name = value } with strings")
    refused({ llm = "claude", stream = "yes" }, "stream: expected a boolean, got a string")
    refused({ llm = "..", body = "{}" }, "cannot be a name")
    refused({ llm = "claude", bearer_token = "a b", body = "{}" }, "router:complete: ")
    local small = deputy.router(registry, { central_url = central.url, bearer_token = TOKEN, policy = POLICY,
      settings = SETTINGS,
      limits = { max_body_bytes = 10 } })
    local reply, failure = small:complete{ llm = "claude", body = BODY }
    assert.is_nil(reply)
    assert.equal("limit", failure.kind)
    assert.matches("the limit is 10", failure.message)
    assert.equal(0, central:connections())
  end)

  it("is over a limit in a router's words where a provider is asked by itself", function()
    local reply, failure, whole = deputy.echo("echo"):complete(("x"):rep((32 << 20) + 1))
    assert.is_nil(reply)
    assert.is_nil(whole)
    assert.equal("limit", failure.kind)
    assert.matches("the limit is 33554432", failure.message)
  end)

  it("encodes a body that is a table", function()
    assert(router:complete{ llm = "claude", body = { model = "claude" } })
    assert.equal('{"model":"claude"}', central:log()[1].body)
  end)

  it("a reply over the limit is a failure, whatever comes", function()
    central:set{ inference = { body = '{"a":"' .. ("x"):rep(5000) .. '"}' } }
    local small = deputy.router(registry, { central_url = central.url, bearer_token = TOKEN, policy = POLICY,
      settings = SETTINGS,
      limits = { max_reply_bytes = 1000 } })
    local reply, failure = small:complete{ llm = "claude", body = BODY }
    assert.is_nil(reply)
    assert.equal("limit", failure.kind)
  end)

  it("a deadline of its own ends it", function()
    central:set{ inference = { { stall = true } } }
    local began = peers.now_us()
    local reply, failure = router:complete{ llm = "claude", body = BODY, total_ms = 100 }
    assert.is_nil(reply)
    assert.equal("deadline", failure.kind)
    assert.is_true(peers.now_us() - began < 2000000)
  end)

  it("asks another layout of central where it was told", function()
    local other = deputy.router(registry, { central_url = central.url, bearer_token = TOKEN, policy = POLICY,
      settings = SETTINGS,
      probe_path = "/may/{llm}", inference = { ["chat/completions"] = "/do/{llm}", ["*"] = "/x/{endpoint}" } })
    router:check_auth("claude")
    other:check_auth("claude")
    other:complete{ llm = "claude", body = "{}" }
    other:complete{ llm = "claude", endpoint = "responses", body = "{}" }
    local targets = {}
    for i, request in ipairs(central:log()) do targets[i] = request.target end
    assert.same({ "/api/v1/llms/claude", "/may/claude", "/do/claude", "/x/responses" }, targets)
  end)
end)
