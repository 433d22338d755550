-- Every reply that deputy serve makes itself, and those that it passes on from upstreams that nobody here wrote,
-- against the types that OpenAI and Anthropic publish: spec/clients/schema.mjs.
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local npm = require "spec.support.npm"
local peers = require "spec.support.peers"

local TOKEN = "tok-house-very-secret"
local KEY = "key-of-the-gateway"

local schema, central, model, gw

local function fits(kind, text)
  local answer = schema:ask(cjson.encode{ type = kind, text = text })
  assert.is_true(answer.problem == cjson.null, ("%s: %s: %s"):format(kind, answer.problem, text))
end

local function send(spec)
  spec.headers = spec.headers or {}
  if spec.headers.Authorization == nil then spec.headers.Authorization = "Bearer " .. KEY end
  local c = gw:open()
  c:send(client.request(spec))
  local reply = assert(c:read_reply())
  c:close()
  return reply
end

local function ask(path, name, stream, more)
  local json = {
    model = name, stream = stream or nil, max_tokens = 64, messages = { { role = "user", content = "hi" } },
  }
  for key, value in pairs(more or {}) do json[key] = value end
  return send{ path = path, json = json }
end

-- The events of a stream that are JSON, and their number.
local function events_fit(kind, reply)
  local count = 0
  for data in reply.body:gmatch("data: ([^\n]+)\n\n") do
    if data ~= "[DONE]" then
      fits(kind, data)
      count = count + 1
    end
  end
  assert.is_true(count > 3, reply.body)
end

local function serve(config)
  config.gateway = config.gateway or {}
  config.gateway.apiKeys = { KEY }
  config.policy = { settings = { retries = 0, breaker = false } }
  gw = gateway.start(config)
end

local CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"

describe("by what OpenAI and Anthropic publish", function()
  if npm.missing() then
    it("replies are right", function() npm.skip(pending) end)
    return
  end
  setup(function() schema = npm.start("schema") end)
  teardown(npm.stop_all)
  after_each(function()
    gateway.stop_all()
    peers.stop_all()
  end)

  it("the check itself is one", function()
    for kind, text in pairs{ ["openai.error"] = '{"error":{"message":"x","type":"y","code":null}}',
      ["openai.chat"] = '{"object":"chat.completion"}', ["anthropic.error"] = '{"type":"error","error":{"type":"z"}}',
      ["openai.models"] = '{"object":"list","data":[{"id":1}]}' } do
      assert.not_equal(cjson.null, schema:ask(cjson.encode{ type = kind, text = text }).problem)
    end
  end)

  describe("our own errors are errors:", function()
    local function start()
      central = peers.central{ llms = { claude = {}, opus = {} },
        tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
      local config = {
        central = { url = central.url, bearerToken = TOKEN }, gateway = { maxBodyBytes = 2000 },
        timeouts = { firstByteMs = 200, firstTokenMs = 200 },
      }
      serve(config)
    end

    local function check(path, reply, status)
      assert.same({ path, status }, { path, reply.status })
      fits(path == MESSAGES and "anthropic.error" or "openai.error", reply.body)
    end

    for _, path in ipairs{ CHAT, MESSAGES, RESPONSES, "/v1/completions", "/v1/embeddings" } do
      it("of a request, at " .. path, function()
        start()
        local json = { ["Content-Type"] = "application/json" }
        check(path, send{ path = path, body = "{", headers = json }, 400)
        check(path, send{ path = path, json = { stream = false } }, 400)
        check(path, send{ path = path, body = "{}", headers = { ["Content-Type"] = "text/plain" } }, 415)
        check(path, send{ path = path, body = ("x"):rep(3000), headers = json }, 413)
        check(path, send{ path = path, json = { model = "claude" }, headers = { Authorization = false } }, 401)
        check(path, send{ path = path, json = { model = "claude" }, headers = { Host = "else.example" } }, 403)
        check(path, send{ path = path, json = { model = "claude" }, headers = { Origin = "http://x.example" } }, 403)
        check(path, send{ path = path, method = "GET" }, 405)
        check(path, send{ path = path, json = { model = "claude" },
          headers = { ["x-deputy-streaming"] = "perhaps" } }, 400)
      end)

      it("of a failure, at " .. path, function()
        start()
        for _, case in ipairs{
          { { { reset = true } }, 502 }, { { { stall = true } }, 504 }, { { status = 200, body = "" }, 502 },
          { { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<p>" }, 502 },
        } do
          central:set{ routes = { { "POST .*", case[1] } } }
          for _, stream in ipairs{ false, true } do check(path, ask(path, "claude", stream), case[2]) end
        end
      end)
    end

    it("of a central that is not there", function()
      start()
      central:stop()
      check(CHAT, ask(CHAT, "claude"), 502)
      check(MESSAGES, ask(MESSAGES, "claude"), 502)
      check("/v1/models", send{ path = "/v1/models" }, 502)
    end)

    it("of a path that is none", function()
      start()
      check("/v1/nothing", send{ path = "/v1/nothing" }, 404)
      check("/v1/chat/completions/", ask("/v1/chat/completions/", "claude"), 404)
    end)

    it("at the end of a stream that is cut", function()
      local head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
      local said = {
        [CHAT] = 'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n',
        ["/v1/completions"] = 'data: {"choices":[{"index":0,"text":"word","finish_reason":null}]}\n\n',
        [MESSAGES] = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,' ..
          '"delta":{"type":"text_delta","text":"word"}}\n\n',
        [RESPONSES] = 'event: response.output_text.delta\n' ..
          'data: {"type":"response.output_text.delta","delta":"word"}\n\n',
      }
      local kinds = { [CHAT] = "openai.error", ["/v1/completions"] = "openai.error", [MESSAGES] = "anthropic.error",
        [RESPONSES] = "openai.responseError" }
      start()
      for path, text in pairs(said) do
        central:set{ routes = { { "POST .*", { { send = head .. text }, { wait_ms = 50 }, { reset = true } } } } }
        local reply = ask(path, "claude", true)
        assert.same({ path, 200, false }, { path, reply.status, reply.complete })
        fits(kinds[path], reply.body:match("data: ([^\n]+)\n\n$"))
      end
    end)
  end)

  it("the list of models is one, with what has a stand-in", function()
    central = peers.central{ llms = { claude = {}, opus = {} }, tokens = { [TOKEN] = { view = { "*" } } } }
    serve{ central = { url = central.url, bearerToken = TOKEN },
      providers = { { name = "local", type = "openai", url = central.url, model = "q", failoverFor = "claude" } } }
    local reply = send{ path = "/v1/models" }
    assert.equal(200, reply.status)
    fits("openai.models", reply.body)
    assert.equal(2, #cjson.decode(reply.body).data)
  end)

  for _, case in ipairs{ { "passed on", "up", nil }, { "of the stand-in", "dropped", "local" } } do
    it("answers " .. case[1] .. " are answers", function()
      central = npm.start("aimock", "central", "--central")
      model = npm.start("aimock", "local")
      serve{
        central = { url = central.first.url, bearerToken = TOKEN,
          inference = { ["chat/completions"] = "/v1/chat/completions" } },
        providers = { { name = "local", type = "openai", url = model.first.url .. "/v1", model = "up",
          failoverFor = { "up", "dropped" } } },
      }
      local name, via = case[2], case[3]
      local function answer(kind, path, more)
        local reply = ask(path, name, false, more)
        assert.same({ path, 200, via }, { path, reply.status, reply.headers["x-deputy-via"] })
        fits(kind, reply.body)
      end
      answer("openai.chat", CHAT)
      events_fit("openai.chunk", ask(CHAT, name, true))
      if not via then answer("openai.embeddings", "/v1/embeddings", { model = "embedder", input = "hi" }) end
      central:stop()
      model:stop()
    end)
  end
end)
