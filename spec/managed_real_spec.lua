-- The presets with a model server that is really there: started by deputy serve, asked with and without its key, found
-- by discover, ended. What is not there is skipped, in words (spec/support/installed.lua).
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local installed = require "spec.support.installed"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local LOAD_MS = 120000
local types = { vllm = "vllm-managed" }

local function deputy(gw, ...)
  return shell.run{ env = { DEPUTY_LUA = uv.cwd() .. "/lua", XDG_RUNTIME_DIR = gw.dir }, timeout_ms = 20000,
    BUILD .. "/deputy", ... }
end

local function check(name, model)
  local central = peers.central{
    llms = { claude = {} }, tokens = { tok = { view = { "claude" } } }, inference = { status = 503, body = "down" },
  }
  local gw = gateway.start{
    central = { url = central.url, bearerToken = "tok" },
    providers = { { name = "real", type = types[name] or name, model = model, failoverFor = "claude" } },
    policy = { settings = { retries = 0, breaker = false } },
  }
  local c = gw:open(LOAD_MS)
  c:send(client.request{ path = "/v1/chat/completions", json = {
    model = "claude", max_tokens = 8, messages = { { role = "user", content = "Say one word." } },
  } })
  local reply = assert(c:read_reply())
  c:close()
  assert.same({ 200, "real" }, { reply.status, reply.headers["x-deputy-via"] }, gw:log())

  local facts = cjson.decode(deputy(gw, "providers", "-c", gw.config, "--json").stdout)[1]
  assert.equal("ready", facts.state)
  local address = ("127.0.0.1:%d"):format(facts.port)
  local past = client.ask(address, { path = "/v1/chat/completions", json = { model = model, messages = {} } })
  if name ~= "ollama" then assert.equal(401, past.status, "the key alone opens it") end
  local found = cjson.decode(deputy(gw, "providers", "discover", "--json", "--ports", ("%d"):format(facts.port)).stdout)
  assert.equal(name, found.servers[1].kind)
  assert.equal(0, gw:stop())
  assert.is_true(gateway.wait_until(function() return not uv.fs_stat("/proc/" .. ("%d"):format(facts.pid)) end, 30000))
end

describe("a managed provider of a real server:", function()
  after_each(function()
    gateway.stop_all()
    peers.stop_all()
  end)

  for _, name in ipairs(installed.names) do
    it(name, function()
      local model, problem = installed.model(name)
      if not model then return pending(problem) end
      check(name, model)
    end)
  end
end)
