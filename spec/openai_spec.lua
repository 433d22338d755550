-- The providers that come with the engine, each asked by itself.
local deputy = require "deputy"
local cjson = require "cjson"
local peers = require "spec.support.peers"

local function chat(text)
  return ('{"model":"claude","messages":[{"role":"user","content":%s}]}'):format(cjson.encode(text))
end

describe("the openai provider", function()
  local server
  before_each(function() server = peers.openai{ models = { "qwen3", "tiny" }, reply = "local words" } end)
  after_each(peers.stop_all)

  local function make(options)
    options = options or {}
    options.name = options.name or "local"
    options.url = options.url or server.url .. "/v1"
    return deputy.openai(options)
  end

  it("completes, and is asked where an OpenAI-compatible server expects it", function()
    local provider = make{ model = "qwen3" }
    local reply = assert(provider:complete(chat("hello")))
    assert.equal(200, reply.status)
    assert.equal("local words", cjson.decode(reply.body).choices[1].message.content)
    local request = server:log()[1]
    assert.equal("POST /v1/chat/completions", request.method .. " " .. request.target)
    assert.equal("application/json", request.headers["content-type"])
    assert.is_nil(request.headers.authorization)
    assert(provider:complete{ endpoint = "embeddings", body = '{"model":"x","input":"hi"}' })
    assert.equal("/v1/embeddings", server:log()[2].target)
    assert.equal("local", provider.name)
    assert.matches("local", tostring(provider))
  end)

  it("replaces the model's name in the bytes, and nothing else", function()
    local provider = make{ model = 'a "quoted" \\ name\n' }
    local quoted = cjson.encode('a "quoted" \\ name\n'):gsub("\\/", "/")
    server:set{ steps = { headers = { ["Content-Type"] = "application/json" }, body = "{}" } }
    local function sent(body)
      server:clear()
      provider:complete(body)
      return (server:log()[1] or {}).body
    end
    local forms = {
      '{"model":%s}',
      ' { "model" : %s , "big" : 12345678901234567890, "e":[], "o":{},"x":1.0e5, "u":"\\u00e9\\/" } ',
      '{"a":{"model":"inner"},"model":%s,"b":[{"model":"inner"}]}',
      '{"mod\\u0065l":%s}',
      '{"messages":[{"content":"\\"model\\":\\"no\\""}],"model":%s}\n',
      '{"model":%s,"pad":"' .. ("x"):rep(200000) .. '"}',
    }
    for _, form in ipairs(forms) do
      local before, after = form:match("^(.*)%%s(.*)$")
      assert.equal(before .. quoted .. after, sent(before .. '"claude"' .. after))
    end
  end)

  it("puts the model's name in where the body has none", function()
    local provider = make{ model = "qwen3" }
    server:set{ steps = { headers = { ["Content-Type"] = "application/json" }, body = "{}" } }
    for body, sent in pairs{
      ['{"a":1}'] = '{"model":"qwen3","a":1}', [" {\n} "] = ' {"model":"qwen3"\n} ',
      ['{ "x":{"model":"inner"}}'] = '{"model":"qwen3", "x":{"model":"inner"}}',
    } do
      server:clear()
      assert(provider:complete(body))
      assert.equal(sent, server:log()[1].body)
    end
  end)

  it("refuses a body with two models, or with one that is no name, and sends nothing", function()
    local provider = make{ model = "qwen3" }
    local no_object = "expected the request's body to be a JSON object"
    local refused = {
      ['{"model":"a","model":"b"}'] = '2 members named "model"',
      ['{"model":"a","mod\\u0065l":"b"}'] = '2 members named "model"', ['{"model":5}'] = "got another type",
      ['{"model":null}'] = "got another type", ["[]"] = no_object, ["{"] = no_object, [""] = no_object,
      ['{"model":"a"} x'] = no_object,
    }
    for body, message in pairs(refused) do
      local reply, failure, primary = provider:complete(body)
      assert.is_nil(reply)
      assert.is_nil(primary)
      assert.equal("refused", failure.kind)
      assert.is_truthy(failure.message:find(message, 1, true), body .. ": " .. failure.message)
    end
    local _, failure = provider:complete('{"model":"a","deep":' .. ("["):rep(600) .. ("]"):rep(600) .. "}")
    assert.equal("refused", failure.kind)
    assert.equal(0, server:connections())
  end)

  it("passes a body as it came when no model is configured", function()
    server:set{ steps = { headers = { ["Content-Type"] = "application/json" }, body = "{}" } }
    for i, body in ipairs{ "not JSON at all", '{"model":"a","model":"b"}', "\0\1\255" } do
      make():complete(body)
      assert.equal(body, server:log()[i].body)
    end
  end)

  it("sends its own key, and to nobody else", function()
    server:set{ api_key = "sk-local" }
    local provider = make{ model = "qwen3", api_key = "sk-local" }
    assert(provider:complete(chat("hello")))
    assert.equal("Bearer sk-local", server:log()[1].headers.authorization)
    assert(provider:list_models())
    assert.is_true(provider:is_available())
    local reply, failure, primary = make{ api_key = "sk-wrong" }:complete(chat("hello"))
    assert.is_nil(reply)
    assert.same({ "status", 401, "invalid_api_key" }, { failure.kind, failure.status, failure.code })
    assert.equal(401, primary.status)
    assert.is_nil(tostring(failure):find("sk-", 1, true))
    local available, why = make{ api_key = "sk-wrong" }:is_available()
    assert.is_false(available)
    assert.matches("status 401", why)
    assert.is_nil(why:find("sk-", 1, true))
  end)

  it("keeps its key out of what it says of an error", function()
    local provider = make{ model = "qwen3", api_key = "sk-local-secret" }
    for _, body in ipairs{
      '{"error":{"message":"Incorrect API key provided: sk-local-secret.","code":"invalid_api_key"}}',
      '{"error":{"message":"no","code":"sk-local-secret"}}',
    } do
      server:set{ steps = { status = 401, headers = { ["Content-Type"] = "application/json" }, body = body } }
      local _, failure = provider:complete(chat("hello"))
      assert.equal(401, failure.status)
      for _, text in ipairs{ failure.message, failure.code or "" } do
        assert.is_nil(text:find("sk-local-secret", 1, true), text)
      end
    end
  end)

  it("streams", function()
    local body = '{"model":"claude","stream":true,"messages":[]}'
    local reply = assert(make{ model = "tiny" }:complete(body))
    assert.equal("text/event-stream", reply.headers["content-type"])
    assert.matches('"content":"local"', reply.body)
    assert.matches("data: %[DONE%]\n\n$", reply.body)
  end)

  it("lists models", function()
    assert.same({ "qwen3", "tiny" }, make():list_models())
    server:set{ models = {} }
    assert.same({}, make():list_models())
    assert.equal("GET /v1/models", server:log()[1].method .. " " .. server:log()[1].target)
    assert.equal(0, #server:log()[1].body)
  end)

  it("lists up to 10,000 models, and no more", function()
    local function list(n, id)
      local models = {}
      for i = 1, n do models[i] = ('{"id":"%s%d"}'):format(id, i) end
      return { body = '{"data":[' .. table.concat(models, ",") .. "]}" }
    end
    server:set{ models_steps = list(10000, "m") }
    local models = assert(make():list_models())
    assert.equal(10000, #models)
    assert.equal("m10000", models[10000])
    server:set{ models_steps = list(10001, "m") }
    local none, failure = make():list_models()
    assert.is_nil(none)
    assert.matches("over a limit", failure.message)
    server:set{ models_steps = list(1, ("x"):rep(300)) }
    assert.matches("over a limit", select(2, make():list_models()).message)
    server:set{ models_steps = list(10000, ("x"):rep(200)) }
    assert.matches("over 1048576 bytes", select(2, make():list_models()).message)
  end)

  it("says what is wrong with a list of models", function()
    local lists = { "", "{}", "nonsense", '{"data":{}}', '{"data":["a"]}', '{"data":[{"id":5}]}', '{"data":[{}]}' }
    for _, body in ipairs(lists) do
      server:set{ models_steps = { body = body } }
      local none, failure = make():list_models()
      assert.is_nil(none)
      assert.matches("expected {\"data\"", failure.message)
    end
    for _, steps in ipairs{ { status = 500 }, { status = 404 }, { status = 302, headers = { Location = "/x" } } } do
      server:set{ models_steps = steps }
      assert.matches("status " .. steps.status, select(2, make():list_models()).message)
    end
    server:set{ models_steps = { { cut = 45 }, { body = '{"data":[]}' } } }
    assert.is_nil((make():list_models()))
    server:set{ models_steps = { { stall = true } } }
    assert.matches("did not answer in time", select(2, make():list_models()).message)
  end)

  it("is available when its models are, whatever they are", function()
    assert.is_true(make():is_available())
    for _, body in ipairs{ "", "nonsense", ("x"):rep(3000000) } do
      server:set{ models_steps = { body = body } }
      assert.is_true(make():is_available())
    end
    server:set{ models_steps = { status = 503 } }
    local available, why = make():is_available()
    assert.is_false(available)
    assert.matches("status 503", why)
    available, why = make{ url = peers.refused() .. "/v1" }:is_available()
    assert.is_false(available)
    assert.matches("local: ", why)
    assert.is_false((make{ url = peers.blackhole() .. "/v1" }:is_available()))
  end)

  it("gives the server's error as it came, and a word for what has no status", function()
    server:set{ steps = { status = 429, headers = { ["Retry-After"] = "7", ["Content-Type"] = "application/json" },
      body = '{"error":{"code":"slow_down","message":"later"}}' } }
    local _, failure, reply = make():complete("{}")
    assert.same({ "status", 429, "slow_down", "later", 7 },
      { failure.kind, failure.status, failure.code, failure.message, failure.retry_after })
    assert.equal('{"error":{"code":"slow_down","message":"later"}}', reply.body)
    for kind, steps in pairs{ connect = { { reset = true } }, malformed = { body = "" }, cut = { { cut = 70 },
      { body = ("x"):rep(99) } }, in_band = { body = '{"error":{"message":"x"}}' } } do
      server:set{ steps = steps }
      assert.equal(kind, select(2, make():complete("{}")).kind)
    end
  end)

  it("trusts the bundle that it is given", function()
    local secure = peers.openai{ tls = "good", models = { "qwen3" } }
    local url = secure.url .. "/v1"
    assert.is_true(make{ url = url, ca_file = peers.tls_files().ca }:is_available())
    assert.is_false((make{ url = url }:is_available()))
    assert.equal("tls", select(2, make{ url = url }:complete("{}")).kind)
    assert.is_truthy(make{ url = url, ca_file = peers.tls_files().ca, model = "qwen3" }:complete(chat("hi")))
  end)

  it("says what is wrong with its options", function()
    local function refused(options, pattern)
      assert.error_matches(function() deputy.openai(options) end, pattern)
    end
    refused(nil, "expected { name =, url =")
    refused({ name = "x" }, "url")
    refused({ url = server.url }, "provider name: expected a name")
    refused({ name = "x", url = "ftp://x" }, "url")
    refused({ name = "x", url = "http://u:hunter2@x" }, "url")
    refused({ name = "x", url = server.url, model = "" }, "model of an openai provider: expected 1 to 256 bytes, got 0")
    refused({ name = "x", url = server.url, model = ("m"):rep(257) }, "expected 1 to 256 bytes, got 257")
    refused({ name = "x", url = server.url, api_key = "a b" }, "deputy.openai: ")
    refused({ name = "x", url = server.url, apikey = "k" }, "unknown option 'apikey' %(did you mean 'api_key'%?%)")
    refused({ name = "x\0y", url = server.url }, "NUL byte")
    local _, message = pcall(deputy.openai, { name = "x", url = "http://u:hunter2@x" })
    assert.is_nil(message:find("hunter2", 1, true))
    assert.error_matches(function() make():complete() end, "expected a body %(a string or a table%), got a nil")
    assert.error_matches(function() make().complete({}) end, "call its methods with a colon")
  end)

  it("can be closed, and says so afterwards", function()
    local closed
    do
      local provider <close> = make()
      closed = provider
    end
    assert.error_matches(function() closed:complete("{}") end, "this provider is closed")
    assert.error_matches(function() deputy.registry():register(closed) end, "this provider is closed")
    assert.matches("closed", tostring(closed))
  end)
end)

describe("the echo provider", function()
  local echo = deputy.echo("echo")

  local function ask(endpoint, body)
    local reply, failure = echo:complete{ endpoint = endpoint, body = body }
    return assert(reply, tostring(failure))
  end

  local function answer(endpoint, body) return cjson.decode(ask(endpoint, body).body) end

  it("repeats the last thing the user said", function()
    local body = '{"model":"m","messages":[{"role":"user","content":"first"},{"role":"assistant","content":"no"},'
      .. '{"content":"last","role":"user"},{"role":"system","content":"no"}]}'
    local reply = answer("chat/completions", body)
    assert.equal("m", reply.model)
    assert.equal("last", reply.choices[1].message.content)
    assert.equal("stop", reply.choices[1].finish_reason)
    body = '{"messages":[{"role":"user","content":[{"type":"text","text":"two "},{"type":"image_url","image_url":{}},'
      .. '{"type":"text","text":"parts"}]}]}'
    assert.equal("two parts", answer("chat/completions", body).choices[1].message.content)
    assert.equal("", answer("chat/completions", "{}").choices[1].message.content)
    assert.equal("echo", answer("chat/completions", "{}").model)
  end)

  it("keeps every character", function()
    local texts = { 'quotes " and \\ and / and\n\t\0end', "\u{1F600} é \u{7f}", "$M $T $P", (" x"):rep(50000) }
    for _, text in ipairs(texts) do
      assert.is_true(answer("chat/completions", chat(text)).choices[1].message.content == text)
    end
  end)

  it("answers each endpoint in its own shape", function()
    assert.equal("say", answer("completions", '{"prompt":"say"}').choices[1].text)
    assert.equal("ab", answer("completions", '{"prompt":["a","b"]}').choices[1].text)
    assert.equal("say", answer("responses", '{"input":"say"}').output[1].content[1].text)
    local input = '{"input":[{"role":"user","content":[{"type":"input_text","text":"say"}]}]}'
    assert.equal("say", answer("responses", input).output[1].content[1].text)
    local message = answer("messages", chat("say"))
    assert.same({ "message", "assistant", "end_turn", "say" },
      { message.type, message.role, message.stop_reason, message.content[1].text })
    local list = answer("embeddings", '{"input":["a","b","c"]}')
    assert.equal(3, #list.data)
    assert.is_number(list.data[3].embedding[1])
    assert.equal(1, #answer("embeddings", '{"input":"a"}').data)
  end)

  it("streams in each shape, so that the pieces make the whole", function()
    local text = 'one "two"  thr\u{e9}e\n' .. ("word "):rep(20000)
    local pieces = {
      ["chat/completions"] = function(e) return e.choices[1].delta.content end,
      completions = function(e) return e.choices[1].text end,
      responses = function(e) return e.type == "response.output_text.delta" and e.delta end,
      messages = function(e) return e.type == "content_block_delta" and e.delta.text end,
    }
    for endpoint, piece in pairs(pieces) do
      local body = cjson.encode{ stream = true, prompt = endpoint == "completions" and text or nil,
        messages = endpoint ~= "completions" and { { role = "user", content = text } } or nil }
      local reply = ask(endpoint, body)
      assert.equal("text/event-stream", reply.headers["content-type"])
      local whole, n = {}, 0
      for data in reply.body:gmatch("data: ({[^\n]*})\n\n") do
        whole[#whole + 1] = piece(cjson.decode(data)) or nil
        n = n + 1
      end
      assert.is_true(table.concat(whole) == text, endpoint)
      assert.is_true(n > 10)
    end
  end)

  it("answers like a server when it is asked for what it has not", function()
    local function status(endpoint, body) return select(3, echo:complete{ endpoint = endpoint, body = body }).status end
    assert.equal(404, status("audio/speech", "{}"))
    assert.equal(400, status("chat/completions", "nonsense"))
    assert.equal(400, status("chat/completions", "[]"))
    local _, failure = echo:complete(chat(("x"):rep(1100000)))
    assert.equal("limit", failure.kind)
  end)

  it("is available and names its model", function()
    assert.is_true(echo:is_available())
    assert.same({ "echo" }, echo:list_models())
    assert.error_matches(function() deputy.echo() end, "expected a name, a string, got a no value")
    assert.error_matches(function() deputy.echo("a\0b") end, "NUL byte")
    assert.error_matches(function() deputy.echo("") end, "expected a name")
  end)
end)
