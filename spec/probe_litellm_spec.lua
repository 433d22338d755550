-- deputy behind a proxy that is not ours: the model look-up of OpenAI's API as the probe. The fake answers as LiteLLM's
-- proxy does: HEAD is not among a route's methods (405 for everybody), a model that the key may not use is 404 like one
-- that is not there, no key or a bad one is 401.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local deputy = require "deputy"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))

local fake = [[
  local cjson = require "cjson"

  local function json(status, value, headers)
    headers = headers or {}
    headers["Content-Type"] = "application/json"
    return { status = status, headers = headers, body = cjson.encode(value) }
  end

  local function refuse(message)
    return json(401, { error = { message = "Authentication Error, " .. message, type = "auth_error", param = "None",
      code = "401" } })
  end

  return function(request, state)
    local key = (request.headers.authorization or ""):match("^Bearer (.+)$")
    local model = request.path:match("^/v1/models/([^/]+)$")
    if model and request.method ~= "GET" then
      return json(405, { detail = "Method Not Allowed" }, { Allow = "GET" })
    end
    if not key then return refuse "No api key passed in." end
    if not state.keys[key] then return refuse "Invalid proxy server token passed." end
    if model then
      model = model:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
      if model:find("/", 1, true) then return json(404, { detail = "Not Found" }) end
      if state.instead then return state.instead end
      for _, each in ipairs(state.keys[key]) do
        if each == model then
          return json(200, { id = model, object = "model", created = 1677610602, owned_by = "openai" })
        end
      end
      return json(404, { detail = "The model `" .. model .. "` does not exist or is not accessible" })
    end
    return json(503, { error = { message = "no healthy deployment", type = "None", param = "None", code = "503" } })
  end
]]

describe("behind a proxy with OpenAI's model look-up", function()
  local proxy, model, registry

  before_each(function()
    proxy = peers.start{ script = fake, keys = { ["sk-alice"] = { "claude", "openai/gpt" }, ["sk-bob"] = { "other" } } }
    model = peers.openai{ models = { "qwen3" }, reply = "Hello from local" }
    registry = deputy.registry()
    registry:register(deputy.openai{ name = "local", url = model.url .. "/v1", model = "qwen3" })
    for _, llm in ipairs{ "claude", "openai/gpt" } do registry:register_failover(llm, "local") end
  end)

  after_each(peers.stop_all)

  local function router(key, method)
    return deputy.router(registry, {
      central_url = proxy.url, bearer_token = key, probe_path = "/v1/models/{llm}", probe_method = method,
      inference = { ["*"] = "/v1/{endpoint}" }, settings = { retries = 0 },
    })
  end

  local function ask(key, method, llm)
    local r <close> = router(key, method)
    return r:complete{ llm = llm or "claude", body = { model = llm or "claude", messages = {} } }
  end

  it("a local model stands in for whoever may use the LLM, when the probe is a GET", function()
    local reply = ask("sk-alice", "GET")
    assert.equal("local", reply.via)
    local probe = proxy:requests("GET")[1]
    assert.equal("/v1/models/claude", probe.target)
    assert.equal("Bearer sk-alice", probe.headers.authorization)
    assert.is_false(model:saw("sk-alice"))
  end)

  for what, case in pairs{
    ["the key may not use it"] = { "sk-bob", "unreachable" },
    ["the key is none"] = { "sk-mallory", "forbidden" },
    ["the model has a slash in its name, which is not looked up"] = { "sk-alice", "unreachable", "openai/gpt" },
  } do
    it("the proxy's error stays when " .. what, function()
      local reply, failure = ask(case[1], "GET", case[3])
      assert.is_nil(reply)
      assert.equal(case[1] == "sk-mallory" and 401 or 503, failure.status)
      assert.equal(0, model:bytes())
      local r <close> = router(case[1], "GET")
      assert.equal(case[2], r:check_auth(case[3] or "claude"))
    end)
  end

  it("nothing stands in when the probe is a HEAD, which it answers with 405", function()
    local reply, failure = ask("sk-alice")
    assert.is_nil(reply)
    assert.equal(503, failure.status)
    assert.equal(1, proxy:count("HEAD"))
    assert.equal(0, model:bytes())
  end)

  it("what comes with a GET is thrown away, and counts for nothing when it is too long or not whole", function()
    for what, case in pairs{
      ["64 KiB"] = { "allowed", { status = 200, body = (" "):rep(65536) } },
      ["chunks"] = { "allowed", { status = 200, chunked = { "{", "}" } } },
      ["no body"] = { "allowed", { status = 204 } },
      ["too long"] = { "unreachable", { status = 200, body = (" "):rep(65537) } },
      ["without end"] = { "unreachable", { { send = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" },
        { repeat_send = "10\r\n0123456789abcdef\r\n" } } },
      ["without a length"] = { "unreachable", { status = 200, body = "{}", framing = "close" } },
      ["cut"] = { "unreachable", { { send = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{" }, { close = true } } },
      ["a page"] = { "unreachable", { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<p>" } },
      ["elsewhere"] = { "unreachable", { status = 307, headers = { Location = proxy.url .. "/v1/models/x" } } },
    } do
      proxy:set{ instead = case[2] }
      local r <close> = router("sk-alice", "GET")
      assert.equal(case[1], r:check_auth("claude"), what)
    end
  end)

  it("another method is a mistake", function()
    assert.has_error(function() router("sk-alice", "POST") end)
  end)

  it("the configuration says so with central.probeMethod", function()
    local dir = tmp.dir()
    local config = tmp.write(dir, "deputy.json", cjson.encode{
      central = {
        url = proxy.url, probe = "/v1/models/{llm}", probeMethod = "GET", inference = { ["*"] = "/v1/{endpoint}" },
        bearerTokenFile = "key",
      },
      providers = {
        { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = "claude" },
      },
    })
    local lua = not lfs.attributes(BUILD .. "/../lua/deputy/config.lua") and lfs.currentdir() .. "/lua" or false
    local function run(key, ...)
      tmp.write(dir, "key", key .. "\n")
      return shell.run{ BUILD .. "/deputy", env = { DEPUTY_LUA = lua }, timeout_ms = 20000, ... }
    end
    assert.equal("Hello from local\n", run("sk-alice", "ask", "-c", config, "claude", "Hello").stdout)
    assert.equal("allowed\n", run("sk-alice", "probe", "-c", config, "claude").stdout)
    local r = run("sk-bob", "ask", "-c", config, "claude", "Hello")
    assert.equal(1, r.status)
    assert.matches("no healthy deployment", r.stderr, 1, true)
  end)
end)
