-- A model server that is really there, as the stand-in of deputy serve: llama-server, vLLM, Ollama, whichever of them
-- is installed and has a model. What is not there is skipped, in words.
-- spec/support/installed.lua says how a model is named.
local uv = require "luv"
local cjson = require "cjson"
local socket = require "socket"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local installed = require "spec.support.installed"
local npm = require "spec.support.npm"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"

local TOKEN = "tok-house-very-secret"
local LOAD_MS = 120000 -- a small model, on a machine without a GPU
local ANSWER_MS = 60000

local function free_port()
  local held = assert(socket.bind("127.0.0.1", 0))
  local _, port = held:getsockname()
  held:close()
  return tostring(port)
end

-- Each: how it is started; where it says that it is ready.
local servers = {
  ["llama-server"] = {
    command = function(port, model) return { "llama-server", "-m", model, "--host", "127.0.0.1", "--port", port } end,
    health = "/health",
  },
  vllm = {
    command = function(port, model) return { "vllm", "serve", model, "--host", "127.0.0.1", "--port", port } end,
    health = "/health",
  },
  ollama = {
    command = function(port) return { "ollama", "serve", env = { OLLAMA_HOST = "127.0.0.1:" .. port } } end,
    health = "/api/version",
  },
}

local function is_healthy(address, path)
  local ok, reply = pcall(client.ask, address, { path = path, timeout_ms = 1000 })
  return ok and reply.status == 200
end

describe("a model server that is really there:", function()
  local server, schema
  after_each(function()
    gateway.stop_all()
    peers.stop_all()
    npm.stop_all()
    if server then server:stop() end
    server = nil
  end)

  local function check(name)
    local kind = servers[name]
    local model, problem = installed.model(name)
    if not model then return pending(problem) end

    local address = "127.0.0.1:" .. free_port()
    server = shell.start(kind.command(address:match("%d+$"), model))
    assert.is_truthy(gateway.wait_until(function()
      uv.sleep(200)
      return is_healthy(address, kind.health)
    end, LOAD_MS), name .. " did not become ready: " .. server.stderr:sub(-2000))

    local central = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" } } },
      inference = { status = 503, body = "down" } }
    local gw = gateway.start{
      central = { url = central.url, bearerToken = TOKEN },
      providers = { { name = name, type = "openai", url = "http://" .. address .. "/v1", model = model,
        failoverFor = "claude" } },
      policy = { settings = { retries = 0, breaker = false } },
    }
    local function ask(stream)
      local c = gw:open(ANSWER_MS)
      c:send(client.request{ path = "/v1/chat/completions", json = { model = "claude", stream = stream or nil,
        max_tokens = 8, messages = { { role = "user", content = "Say one word." } } } })
      return c
    end
    if not npm.missing() then schema = npm.start("schema") end
    local function fits(type, text)
      if schema then assert.equal(cjson.null, schema:ask(cjson.encode{ type = type, text = text }).problem, text) end
    end

    local c = ask(false)
    local plain = assert(c:read_reply())
    c:close()
    assert.same({ 200, name }, { plain.status, plain.headers["x-deputy-via"] }, plain.body)
    fits("openai.chat", plain.body)

    c = ask(true)
    local stream = assert(c:read_reply())
    c:close()
    assert.same({ 200, name, true }, { stream.status, stream.headers["x-deputy-via"], stream.complete }, stream.body)
    assert.is_truthy(stream.body:find("data: [DONE]", 1, true), stream.body)
    for data in stream.body:gmatch("data: ([^\n]+)\n\n") do
      if data ~= "[DONE]" then fits("openai.chunk", data) end
    end

    -- and it goes on after a caller that left in the middle
    c = ask(true)
    c:read_head()
    c:close()
    c = ask(false)
    assert.equal(200, assert(c:read_reply()).status)
    c:close()
  end

  for _, name in ipairs(installed.names) do
    it(name, function() check(name) end)
  end
end)
