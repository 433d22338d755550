-- deputy serve, as clients and operators meet it: a real process between real peers.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local TOKEN = "tok-alice-very-secret"
local HOUSE = "tok-house-very-secret"
local KEY = "sk-gateway-very-secret"
local LOCAL_KEY = "sk-local-very-secret"
local OUTAGE = { status = 503, headers = { ["X-Trace"] = "abc" }, body = '{"error": {"message": "no capacity"}}' }

local central, model

local function config(changes)
  local c = {
    central = { url = central and central.url or peers.refused(), bearerToken = HOUSE },
    providers = {
      { name = "vllm-local", type = "openai", url = (model and model.url or peers.refused()) .. "/v1", model = "qwen3",
        apiKey = LOCAL_KEY, failoverFor = { "claude" } },
    },
    policy = { settings = { retries = 0, breaker = false } },
    gateway = {},
  }
  for section, fields in pairs(changes or {}) do
    if section == "providers" then c.providers = fields else
      for name, value in pairs(fields) do
        c[section] = c[section] or {}
        c[section][name] = value
      end
    end
  end
  return c
end

local function start(changes, options) return gateway.start(config(changes), options) end

local function bearer(token) return { Authorization = "Bearer " .. token } end

before_each(function()
  local all = { view = { "*" }, run = { "*" } }
  central = peers.central{ llms = { claude = {}, opus = {} }, tokens = { [TOKEN] = all, [HOUSE] = all } }
  model = peers.openai{ models = { "qwen3" }, api_key = LOCAL_KEY }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

describe("a request", function()
  it("goes to the central and comes back byte for byte", function()
    local body = '{ "messages":[],"n":12345678901234567890, "x":{"model":"no"},"e":[], "mod\\u0065l" : "claude"}'
    local answer = '{"id":1.0e2,  "big":12345678901234567890,"choices":[]}'
    central:set{ inference = { body = answer, headers = { ["Content-Type"] = "application/json", ["X-Up"] = "1" } } }
    local gw = start()
    local r = gw:ask{ path = "/v1/chat/completions", body = body, headers = {
      ["Content-Type"] = "application/json; charset=utf-8", Authorization = "Bearer " .. TOKEN, ["X-Mine"] = "yes",
      Connection = "X-Hop", ["X-Hop"] = "stays",
    } }
    assert.same({ 200, answer, true }, { r.status, r.body, r.complete })
    assert.equal("false", r.headers["x-deputy-failover"])
    assert.is_nil(r.headers["x-deputy-via"])
    assert.matches("^%x+%-0%.1%-1$", r.headers["x-deputy-run"])
    assert.equal("1", r.headers["x-up"])
    local seen = central:requests("POST")[1]
    assert.equal(body, seen.body)
    assert.equal("Bearer " .. TOKEN, seen.headers.authorization)
    assert.equal("yes", seen.headers["x-mine"])
    assert.is_nil(seen.headers["x-hop"])
    assert.equal("identity", seen.headers["accept-encoding"])
    assert.matches("^00%-%x+%-%x+%-01$", seen.headers.traceparent)
    assert.equal(0, model:bytes())
  end)

  it("keeps on its hop what any of several Connection headers names, both ways", function()
    central:set{ inference = { body = "{}", headers = { { "Content-Type", "application/json" }, { "Connection", "x" },
      { "Connection", "X-Down" }, { "X-Down", "stays" } } } }
    local r = start():ask{ path = "/v1/chat/completions", body = '{"model":"claude"}', headers = {
      { "Content-Type", "application/json" }, { "Connection", "x" }, { "Connection", "X-Up" }, { "X-Up", "stays" } } }
    assert.same({ 200, nil }, { r.status, r.headers["x-down"] })
    assert.is_nil(central:requests("POST")[1].headers["x-up"])
  end)

  it("tells the upstream nothing that is the caller's and the gateway's alone", function()
    local headers = bearer(TOKEN)
    for _, name in ipairs{ "Cookie", "Referer", "Range", "If-None-Match", "If-Range", "Sec-Fetch-Mode", "X-Api-Key",
      "Api-Key", "X-Deputy-Mine", "Proxy-Authorization", "TE", "Keep-Alive" } do
      headers[name] = "stays-here"
    end
    headers["X-Mine"] = "goes"
    local gw = start()
    assert.equal(200, gw:chat({}, headers).status)
    local seen = central:requests("POST")[1].headers
    assert.equal("goes", seen["x-mine"])
    for name, value in pairs(seen) do assert.not_equal("stays-here", value, name) end
    central:set{ inference = OUTAGE }
    assert.equal("true", gw:chat({}, headers).headers["x-deputy-failover"])
    assert.is_false(model:saw("stays-here"))
  end)

  it("takes no upstream's word for what is the gateway's to say", function()
    local reply = { body = "{}", headers = { ["Content-Type"] = "application/json", ["X-Deputy-Failover"] = "maybe",
      ["X-Deputy-Via"] = "up", ["X-Deputy-Else"] = "up", ["Access-Control-Allow-Origin"] = "*",
      ["Access-Control-Allow-Credentials"] = "true", ["Alt-Svc"] = "up", ["Keep-Alive"] = "up", ["X-Up"] = "1" } }
    central:set{ inference = reply }
    local got = start():chat().headers
    assert.same({ "1", "false" }, { got["x-up"], got["x-deputy-failover"] })
    for _, name in ipairs{ "x-deputy-via", "x-deputy-else", "access-control-allow-origin",
      "access-control-allow-credentials", "alt-svc", "keep-alive" } do
      assert.is_nil(got[name], name)
    end
  end)

  it("keeps a traceparent that it came with", function()
    local gw = start()
    local parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    gw:chat({}, { traceparent = parent, tracestate = "a=1" })
    gw:chat({}, { traceparent = "00-0-0-0", tracestate = "a=1" })
    local seen = central:requests("POST")
    assert.same({ parent, "a=1" }, { seen[1].headers.traceparent, seen[1].headers.tracestate })
    assert.not_equal("00-0-0-0", seen[2].headers.traceparent)
    assert.is_nil(seen[2].headers.tracestate)
    assert.is_truthy(gw:log():find("trace_id=4bf92f3577b34da6a3ce929d0e0e4736", 1, true))
  end)

  it("reaches every endpoint", function()
    central:set{ routes = {
      { "POST /v1/responses", { json = { object = "response" } } },
      { "POST /v1/messages", { json = { type = "message" } } },
    } }
    local gw = start()
    for _, endpoint in ipairs{ "chat/completions", "completions", "embeddings", "responses", "messages" } do
      local r = gw:ask{ path = "/v1/" .. endpoint .. "?beta=true",
        json = { model = "claude", prompt = "x", input = "x" } }
      assert.same({ endpoint, 200 }, { endpoint, r.status })
    end
  end)

  it("is answered by the stand-in when the central is down and still allows it", function()
    central:set{ inference = OUTAGE }
    local gw = start()
    local r = gw:chat({ temperature = 1 }, bearer(TOKEN))
    assert.same({ 200, "true", "vllm-local" },
      { r.status, r.headers["x-deputy-failover"], r.headers["x-deputy-via"] })
    assert.equal("Hello from local", r.json.choices[1].message.content)
    local seen = model:requests("POST")[1]
    assert.equal("Bearer " .. LOCAL_KEY, seen.headers.authorization)
    assert.equal("qwen3", cjson.decode(seen.body).model)
    assert.is_false(model:saw(TOKEN))
    assert.equal(1, central:count("HEAD"))
  end)

  it("gets the central's own error when nobody may stand in", function()
    central:set{ inference = OUTAGE }
    local gw = start()
    for what, probe in pairs{ forbidden = { status = 403 }, gone = { status = 404 }, silent = { { reset = true } } } do
      central:set{ probe = probe }
      local r = gw:chat()
      assert.same({ what, 503, OUTAGE.body, "abc", "false" },
        { what, r.status, r.body, r.headers["x-trace"], r.headers["x-deputy-failover"] })
    end
    central:set{ probe = false }
    assert.equal(OUTAGE.body, gw:chat({ model = "opus" }).body) -- no stand-in for that one
    central:set{ inference = { status = 403, body = '{"error":"no"}' } }
    assert.same({ 403, '{"error":"no"}' }, { gw:chat().status, gw:chat().body })
    assert.equal(0, model:bytes())
  end)

  it("gets an error in the caller's own shape when the central has none", function()
    central:stop()
    local gw = start()
    local r = gw:chat()
    assert.same({ 502, "primary_unreachable", "upstream_error" }, { r.status, r.json.error.code, r.json.error.type })
    assert.matches("^%x+", r.headers["x-deputy-run"])
    local m = gw:ask{ path = "/v1/messages", json = { model = "claude" } }
    assert.same({ 502, "error", "api_error" }, { m.status, m.json.type, m.json.error.type })
    assert.equal(0, model:bytes())
    assert.is_nil(gw:log():find(HOUSE, 1, true))
  end)

  it("gets an error that names leg and kind, and no address: that is for the log", function()
    local gw = start()
    local addresses = { central.url:match("//(.+)"), model.url:match("//(.+)") }
    local function look(r, words)
      assert.is_truthy(r.body:find(words, 1, true), r.body)
      for _, address in ipairs(addresses) do assert.is_nil(r.body:find(address, 1, true), r.body) end
      assert.is_nil(r.body:find("infer", 1, true), r.body)
    end
    central:set{ inference = { { reset = true } }, probe = { status = 403 } }
    look(gw:chat(), "the central could not be reached (connect")
    assert.is_truthy(gw:wait_log('problem="[^"]*' .. addresses[1]:gsub("%p", "%%%0")), gw:log())
    central:set{ inference = { status = 200, body = "" } }
    look(gw:chat(), "the central sent a reply that is of no use (malformed: empty)")
    central:set{ inference = OUTAGE, probe = false }
    local output = 'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
    model:set{ steps = { { chunked = { output }, headers = { ["Content-Type"] = "text/event-stream" },
      unfinished = true }, { wait_ms = 50 }, { reset = true } } }
    look(gw:chat{ stream = true }, "the local provider broke off before its reply was complete (cut")
  end)

  it("maps failures without a status by one table", function()
    local gw = start{ timeouts = { firstByteMs = 150 }, providers = { { name = "x", type = "echo" } } }
    local cases = {
      { { { stall = true } }, 504, "primary_timeout" },
      { { status = 200, body = "" }, 502, "primary_malformed" },
      { { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<html>" }, 502, "primary_malformed" },
      { { { send = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{" }, { close = true } }, 502, "primary_malformed" },
      { { { reset = true } }, 502, "primary_unreachable" },
    }
    for i, case in ipairs(cases) do
      central:set{ inference = case[1] }
      local r = gw:chat()
      assert.same({ i, case[2], case[3] }, { i, r.status, r.json.error.code })
    end
  end)

  it("over the reply limit is an error, not half a reply", function()
    central:set{ inference = { body = '{"x":"' .. ("a"):rep(5000) .. '"}' } }
    local gw = start{ gateway = { maxReplyBytes = 4096 } }
    local r = gw:chat()
    assert.same({ 502, "primary_too_large" }, { r.status, r.json.error.code })
  end)
end)

describe("a second attempt", function()
  it("takes no kept connection, since where one was dead the others may be", function()
    central:set{ script = [[return function(request, _, conn)
      if request.n > 1 then return conn:reset() end
      conn:wait(300)
      return { status = 200, json = { choices = {} } }
    end]] }
    local gw = start{ policy = { settings = { retries = 1, breaker = false } } }
    local command = { "curl", "--parallel", "--parallel-immediate" }
    local again = {}
    for _ = 1, 4 do
      for _, word in ipairs(again) do command[#command + 1] = word end
      for _, word in ipairs{ "-s", "-o", gw.dir .. "/out", "-w", "%{http_code} ", "--json",
        '{"model":"claude","messages":[]}', "http://" .. gw.address .. "/v1/chat/completions" } do
        command[#command + 1] = word
      end
      again = { "--next" }
    end
    local warm = require("spec.support.shell").run(command)
    assert.equal("200 200 200 200 ", warm.stdout, warm.stderr)
    assert.equal(4, central:connections())
    local r = gw:chat({}, bearer(TOKEN))
    assert.equal(200, r.status, r.body)
    assert.equal(5, central:connections())
    assert.equal(0, model:bytes())
  end)
end)

describe("what a caller sends", function()
  it("must be JSON that names one LLM", function()
    local gw = start()
    local cases = {
      { '{"messages":[]}', 400, 'has no "model"' },
      { '{"model":"claude","model":"opus"}', 400, '"model" 2 times' },
      { '{"model":"claude","m\\u006fdel":"opus"}', 400, '"model" 2 times' },
      { '{"model":7}', 400, "must be a string" },
      { '{"model":""}', 400, "model" },
      { '{"model":".."}', 400, "model" },
      { '{"model":"a\\u0000b"}', 400, "must be a name" },
      { '{"model":"' .. ("x"):rep(200) .. '"}', 400, "1 to 128 bytes" },
      { '{"model":"claude"', 400, "not one JSON object" },
      { '[{"model":"claude"}]', 400, "not one JSON object" },
      { '{"model":"claude"} x', 400, "not one JSON object" },
      { ("["):rep(9999), 400, "" },
      { "", 400, "body is empty" },
    }
    for i, case in ipairs(cases) do
      local r = gw:ask{ path = "/v1/chat/completions", method = "POST", body = case[1],
        headers = { ["Content-Type"] = "application/json" } }
      assert.same({ i, case[2] }, { i, r.status })
      assert.is_truthy(r.json.error.message:find(case[3], 1, true), r.json.error.message)
    end
    assert.equal(0, central:bytes())
  end)

  it("must say that it is JSON", function()
    local gw = start()
    local kinds = { "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json5" }
    for _, kind in ipairs(kinds) do
      local r = gw:ask{ path = "/v1/messages", body = '{"model":"claude"}', headers = { ["Content-Type"] = kind } }
      assert.same({ 415, "error" }, { r.status, r.json.type })
    end
    assert.equal(415, gw:ask{ path = "/v1/completions", body = "{}" }.status)
    assert.equal(415, gw:ask{ path = "/v1/completions", json = { model = "claude" },
      headers = { ["Content-Encoding"] = "gzip" } }.status)
    assert.equal(0, central:bytes())
  end)

  it("is bounded, and a long body is refused before it comes", function()
    local gw = start{ gateway = { maxBodyBytes = 100000 } }
    local fits = gw:ask{ path = "/v1/chat/completions", json = { model = "claude", x = ("a"):rep(90000) } }
    assert.equal(200, fits.status)
    local r = gw:ask{ path = "/v1/chat/completions", json = { model = "claude", x = ("a"):rep(110000) } }
    assert.equal(413, r.status)
    local c = gw:open()
    c:send(client.request{ path = "/v1/chat/completions", method = "POST", headers = {
      Authorization = "Basic eDp5", ["Content-Type"] = "application/json", ["Content-Length"] = "90000",
      Expect = "100-continue" } })
    assert.equal(401, c:read_reply().status)
    c:close()
  end)

  it("passes chunked, and after 100-continue", function()
    local gw = start()
    local c = gw:open()
    c:send(client.request{ path = "/v1/chat/completions", method = "POST", headers = {
      ["Content-Type"] = "application/json", ["Transfer-Encoding"] = "chunked", Expect = "100-continue" } })
    assert.equal("HTTP/1.1 100 Continue", c:take_until("\r\n\r\n"))
    c:send('9\r\n{"model":\r\n9\r\n"claude"}\r\n0\r\n\r\n')
    assert.equal(200, c:read_reply().status)
    c:close()
    assert.equal('{"model":"claude"}', central:requests("POST")[1].body)
  end)

  it("comes over one connection, pipelined too", function()
    local gw = start()
    local c = gw:open()
    local request = client.request{ path = "/v1/chat/completions", json = { model = "claude" } }
    c:send(request)
    assert.equal(200, c:read_reply().status)
    c:send(request .. client.request{ path = "/healthz" } .. request)
    assert.equal(200, c:read_reply().status)
    assert.equal("ok\n", c:read_reply().body)
    assert.equal(200, c:read_reply().status)
    c:close()
    assert.equal(3, central:count("POST"))
  end)

  it("says which way to stream with a word that is known", function()
    local r = start():chat({}, { ["x-deputy-streaming"] = "sometimes" })
    assert.equal(400, r.status)
  end)
end)

describe("who asks", function()
  it("is who the central is told, and the configured token serves those who do not say", function()
    local gw = start()
    gw:chat({}, bearer(TOKEN))
    gw:chat()
    central:set{ routes = { { "POST /v1/messages", { json = { type = "message" } } } } }
    gw:ask{ path = "/v1/messages", json = { model = "claude" }, headers = { ["x-api-key"] = TOKEN } }
    local seen = central:requests("POST")
    assert.same({ "Bearer " .. TOKEN, "Bearer " .. HOUSE, "Bearer " .. TOKEN },
      { seen[1].headers.authorization, seen[2].headers.authorization, seen[3].headers.authorization })
    assert.is_nil(seen[3].headers["x-api-key"])
    assert.equal(401, gw:chat({}, bearer("tok-nobody")).status) -- the central's own
  end)

  it("is who x-api-key says on every path: the configured token serves nobody who has one of his own", function()
    local gw = start()
    local own = { ["x-api-key"] = TOKEN }
    gw:chat({}, own)
    gw:ask{ path = "/v1/models", headers = own }
    assert.equal("Bearer " .. TOKEN, central:requests("POST")[1].headers.authorization)
    assert.equal("Bearer " .. TOKEN, central:requests("GET")[1].headers.authorization)
    assert.equal(401, gw:chat({}, { ["x-api-key"] = "tok-nobody" }).status)
    central:set{ inference = OUTAGE }
    assert.equal("false", gw:chat({}, { ["x-api-key"] = "tok-nobody" }).headers["x-deputy-failover"])
    assert.is_false(central:saw(HOUSE))
    assert.equal(0, model:bytes())
  end)

  it("may use a key of the gateway, which is never sent on", function()
    local gw = start{ gateway = { apiKeys = { "sk-other", KEY } } }
    assert.equal(200, gw:chat({}, bearer(KEY)).status)
    assert.equal(200, gw:chat({}, { ["x-api-key"] = KEY }).status)
    assert.equal(200, gw:chat({}, { ["x-deputy-key"] = KEY, Authorization = "Bearer " .. TOKEN }).status)
    local seen = central:requests("POST")
    assert.same({ "Bearer " .. HOUSE, "Bearer " .. HOUSE, "Bearer " .. TOKEN },
      { seen[1].headers.authorization, seen[2].headers.authorization, seen[3].headers.authorization })
    central:set{ inference = OUTAGE }
    assert.equal("true", gw:chat({}, bearer(KEY)).headers["x-deputy-failover"])
    assert.is_false(central:saw(KEY))
    assert.is_false(model:saw(KEY))
    assert.is_false(model:saw(HOUSE))
    assert.is_nil(gw:log():find(KEY, 1, true))
  end)

  it("needs a key once there are some", function()
    local gw = start{ gateway = { apiKeys = { KEY } } }
    local none = gw:chat()
    assert.same({ 401, "invalid_api_key", "Bearer" },
      { none.status, none.json.error.code, none.headers["www-authenticate"] })
    assert.equal(401, gw:chat({}, { ["x-deputy-key"] = KEY .. "x", Authorization = "Bearer " .. TOKEN }).status)
    assert.equal(401, gw:ask{ path = "/v1/models" }.status)
    assert.equal(0, central:bytes())
  end)

  it("cannot be unclear about it", function()
    local gw = start()
    assert.equal(401, gw:chat({}, { Authorization = "Basic eDp5" }).status)
    assert.equal(401, gw:chat({}, { Authorization = "Bearer " }).status)
    assert.equal(400, gw:chat({}, { { "Authorization", "Bearer a" }, { "authorization", "Bearer b" } }).status)
    assert.equal(400, gw:chat({}, bearer("tok with spaces")).status)
    assert.equal(0, central:bytes())
  end)

  it("calls us by a name of ours", function()
    local gw = start{ gateway = { allowedHosts = { "deputy.example", "other.example:81" } } }
    local good = {
      "localhost", "LOCALHOST:99", "127.0.0.1", "127.9.9.9:1", "[::1]:4", "deputy.example:7", "other.example:81",
    }
    local bad = {
      "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "other.example:82", "1270.0.0.1",
    }
    for _, host in ipairs(good) do assert.same({ host, 200 }, { host, gw:chat({}, { Host = host }).status }) end
    central:clear()
    for _, host in ipairs(bad) do
      local r = gw:chat({}, { Host = host })
      assert.same({ host, 403, "host_not_allowed" }, { host, r.status, r.json.error.code })
    end
    assert.equal(403, gw:ask{ path = "/metrics", headers = { Host = "evil.example" } }.status)
    assert.equal(200, gw:ask{ path = "/healthz", headers = { Host = "10.1.2.3" } }.status)
    assert.equal(0, central:bytes())
  end)

  it("is no page of an origin that is not listed", function()
    local gw = start{ gateway = { allowedOrigins = { "https://app.example" } } }
    for _, origin in ipairs{ "https://evil.example", "null", "https://app.example.evil" } do
      assert.same({ origin, 403 }, { origin, gw:chat({}, { Origin = origin }).status })
    end
    assert.equal(0, central:bytes())
    local r = gw:chat({}, { Origin = "https://app.example" })
    assert.same({ 200, "https://app.example" }, { r.status, r.headers["access-control-allow-origin"] })
    local ask = gw:ask{ path = "/v1/chat/completions", method = "OPTIONS", headers = { Origin = "https://app.example",
      ["Access-Control-Request-Method"] = "POST", ["Access-Control-Request-Headers"] = "authorization" } }
    assert.same({ 204, "authorization", "POST, OPTIONS" },
      { ask.status, ask.headers["access-control-allow-headers"], ask.headers["access-control-allow-methods"] })
  end)
end)

describe("paths and methods", function()
  it("are taken as they came", function()
    local gw = start()
    local paths = {
      "/nope", "/v1/chat/completions/", "//v1/models", "/v1/%6dodels", "/v1/../metrics", "/V1/models",
    }
    for _, path in ipairs(paths) do
      local r = gw:ask{ path = path }
      assert.same({ path, 404, "not_found" }, { path, r.status, r.json.error.code })
    end
    local r = gw:ask{ path = "/v1/chat/completions" }
    assert.same({ 405, "POST, OPTIONS" }, { r.status, r.headers.allow })
    assert.equal(405, gw:ask{ path = "/v1/models", json = {} }.status)
    assert.equal(200, gw:ask{ path = "http://localhost/healthz" }.status)
    assert.equal(400, gw:ask{ path = "http://evil.example/healthz" }.status)
    local head = gw:ask{ path = "/healthz", method = "HEAD" }
    assert.same({ 200, "3", "" }, { head.status, head.headers["content-length"], head.body })
    assert.equal(204, gw:ask{ path = "/v1/messages", method = "OPTIONS" }.status)
  end)
end)

describe("GET /v1/models", function()
  it("lists what the central lists to this caller, and marks what has a stand-in", function()
    central:set{ tokens = { [TOKEN] = { view = { "claude" }, run = {} }, [HOUSE] = { view = { "*" }, run = {} } } }
    local gw = start()
    local all = gw:ask{ path = "/v1/models" }
    assert.same({ 200, 2 }, { all.status, #all.json.data })
    assert.same({ "vllm-local", nil }, { all.json.data[1].x_deputy_stand_in, all.json.data[2].x_deputy_stand_in })
    local hers = gw:ask{ path = "/v1/models", headers = bearer(TOKEN) }
    assert.same({ 1, "claude" }, { #hers.json.data, hers.json.data[1].id })
    assert.equal(200, gw:ask{ path = "/v1/models", method = "HEAD" }.status)
  end)

  it("passes on what is no such list, and the central's error", function()
    local gw = start()
    local odd = '{"data":{},"n":12345678901234567890}'
    central:set{ routes = { { "GET /v1/models", { body = odd } } } }
    assert.equal(odd, gw:ask{ path = "/v1/models" }.body)
    central:set{ routes = { { "GET /v1/models", { status = 418, body = "teapot" } } } }
    assert.same({ 418, "teapot" }, { gw:ask{ path = "/v1/models" }.status, gw:ask{ path = "/v1/models" }.body })
    central:stop()
    assert.equal("primary_unreachable", gw:ask{ path = "/v1/models" }.json.error.code)
    assert.equal(0, model:bytes())
  end)

  it("says so when the list is too long to be marked", function()
    local gw = start()
    central:set{ routes = { { "GET /v1/models", { json = { data = { { id = ("x"):rep(5000000) } } } } } } }
    local r = gw:ask{ path = "/v1/models" }
    assert.same({ 502, "primary_too_large" }, { r.status, r.json.error.code })
  end)
end)

describe("operating it", function()
  it("says that it lives, is ready, and what it has done", function()
    local gw = start()
    gw:chat()
    central:set{ inference = OUTAGE }
    gw:chat()
    for _, name in ipairs{ "made", "up" } do gw:chat{ model = name } end
    assert.same({ "ok\n", "ready: policy loaded\n" },
      { gw:ask{ path = "/healthz" }.body, gw:ask{ path = "/readyz" }.body })
    local text = gw:ask{ path = "/metrics" }.body
    for _, line in ipairs{
      'deputy_requests_total{llm="claude",outcome="ok",via=""} 1',
      'deputy_requests_total{llm="claude",outcome="ok",via="vllm-local"} 1',
      'deputy_requests_total{llm="_other",outcome="failed",via=""} 2',
      'deputy_probe_verdicts_total{verdict="allowed"} 1',
      'deputy_leg_duration_seconds_count{leg="primary"} 4',
      "deputy_runs_in_flight 0", "deputy_failovers_total 1", "deputy_http_requests_total 7",
    } do assert.is_truthy(text:find("\n" .. line .. "\n", 1, true), line) end
    local sorted
    for le, n in text:gmatch('deputy_leg_duration_seconds_bucket{leg="primary",le="([^"]+)"} (%d+)') do
      assert.is_true(not sorted or tonumber(n) >= sorted, le)
      sorted = tonumber(n)
    end
    for line in text:gmatch("[^\n]+") do
      assert.is_truthy(line:find("^# ") or line:find("^[%a_]+ %S+$") or line:find("^[%a_]+{.*} %S+$"), line)
    end
  end)

  it("writes one line for each run, in the format that was asked for", function()
    central:set{ inference = OUTAGE }
    local gw = start{ log = { format = "json" } }
    local r = gw:chat({ messages = { { content = "a secret thought" } } }, bearer(TOKEN))
    local line = cjson.decode(gw:wait_log('({[^\n]*"msg":"run"[^\n]*})\n'))
    assert.same({ r.headers["x-deputy-run"], "claude", "ok", true, "vllm-local", "allowed", 200 },
      { line.run, line.llm, line.outcome, line.failover, line.via, line.verdict, line.status })
    assert.same({ "primary", "probe", "local" }, { line.legs[1].leg, line.legs[2].leg, line.legs[3].leg })
    assert.same({ 503, "allowed", "vllm-local" }, { line.legs[1].status, line.legs[2].verdict, line.legs[3].provider })
    assert.equal(cjson.decode(gw:log():match("^[^\n]+")).msg, "listening")
    for _, secret in ipairs{ TOKEN, HOUSE, LOCAL_KEY, "secret thought" } do
      assert.is_nil(gw:log():find(secret, 1, true))
    end
  end)

  it("writes a name that callers made up in one line, without a control character", function()
    for _, format in ipairs{ "logfmt", "json" } do
      local gw = start{ log = { format = format } }
      gw:chat{ model = "a\u{9b}31m\u{85}b\u{2028}level=error\u{2029}\u{e9}" }
      assert.is_truthy(gw:wait_log([[a\u009b31m\u0085b\u2028level=error\u2029]] .. "\u{e9}"), gw:log())
    end
  end)

  it("has a page that loads nothing", function()
    local gw = start()
    local r = gw:ask{ path = "/" }
    local nonce = r.headers["content-security-policy"]:match("script%-src 'nonce%-(%x+)'")
    assert.matches("^default%-src 'none'", r.headers["content-security-policy"])
    assert.is_truthy(r.body:find('<script nonce="' .. nonce .. '">', 1, true))
    assert.is_nil(r.body:find("NONCE", 1, true))
    assert.is_nil(r.body:find("https?://"))
    assert.is_nil(r.body:find("innerHTML", 1, true))
    assert.not_equal(nonce, gw:ask{ path = "/" }.headers["content-security-policy"]:match("nonce%-(%x+)"))
    gw:chat{ model = "<b>" }
    local data = gw:ask{ path = "/page.json" }
    assert.equal("<b>", data.json.runs[1].llm)
    assert.equal("primary", data.json.runs[1].legs[1].leg)
    assert.same({ { llm = "claude", provider = "vllm-local" } }, data.json.failovers)
  end)

  it("bounds the runs in flight", function()
    central:set{ inference = { { wait_ms = 300 }, { json = { x = 1 } } } }
    local gw = start{ gateway = { maxInFlight = 2 } }
    local open = {}
    for i = 1, 3 do
      open[i] = gw:open()
      open[i]:send(client.request{ path = "/v1/chat/completions", json = { model = "claude" } })
    end
    local r = open[3]:read_reply()
    assert.same({ 503, "1" }, { r.status, r.headers["retry-after"] })
    assert.equal(200, open[1]:read_reply().status)
    assert.equal(200, open[2]:read_reply().status)
    for i = 1, 3 do open[i]:close() end
    central:set{ inference = false }
    assert.equal(200, gw:chat().status)
  end)

  it("bounds the runs in flight of all workers together, and those that it turned away take no place", function()
    central:set{ inference = { { wait_ms = 800 }, { json = { x = 1 } } } }
    local gw = start{ gateway = { maxInFlight = 2, workers = 2 } }
    local open, seen = {}, { [200] = 0, [503] = 0 }
    for i = 1, 10 do
      open[i] = gw:open()
      open[i]:send(client.request{ path = "/v1/chat/completions", json = { model = "claude" } })
    end
    for i = 1, 10 do
      local status = open[i]:read_reply().status
      seen[status] = seen[status] + 1
      open[i]:close()
    end
    assert.same({ [200] = 2, [503] = 8 }, seen)
    central:set{ inference = false }
    assert.equal(200, gw:chat().status)
  end)

  it("bounds the connections, of all workers together", function()
    local gw = start{ gateway = { maxConnections = 4, workers = 2 } }
    local open = {}
    for i = 1, 4 do
      open[i] = gw:open()
      open[i]:send(client.request{ path = "/healthz" })
      assert.equal(200, open[i]:read_reply().status)
    end
    local fifth = gw:open()
    assert.equal(503, fifth:read_reply().status)
    fifth:close()
    for i = 1, 4 do open[i]:close() end
    assert.is_truthy(gateway.wait_until(function()
      local c = gw:open()
      c:send(client.request{ path = "/healthz" })
      local r = c:read_reply()
      c:close()
      return r and r.status == 200
    end))
  end)
end)

describe("workers", function()
  it("share port, metrics and page", function()
    local gw = start{ gateway = { workers = 3 } }
    local names = {}
    for _ = 1, 30 do
      names[gw:chat().headers["x-deputy-run"]:match("%-(%d+)%.")] = true
    end
    assert.is_truthy(next(names, next(names)), "one worker took all")
    local text = gw:ask{ path = "/metrics" }.body
    assert.is_truthy(text:find('deputy_requests_total{llm="claude",outcome="ok",via=""} 30', 1, true))
    assert.is_truthy(text:find('deputy_breaker_state{llm="claude",state="closed",worker="2"} 1', 1, true))
    assert.equal(30, #gw:ask{ path = "/page.json" }.json.runs)
    assert.equal(0, gw:stop())
  end)

  it("share a Unix socket that only its owner can open", function()
    local dir = tmp.dir()
    local gw = start({ gateway = { workers = 2, listen = "unix:" .. dir .. "/s" } }, { dir = dir })
    assert.equal("unix:" .. dir .. "/s", gw.address)
    assert.equal("rw-------", lfs.attributes(dir .. "/s", "permissions"))
    for _ = 1, 10 do assert.equal(200, gw:chat({}, { Host = "whatever" }).status) end
    assert.equal(0, gw:stop())
    assert.is_nil(lfs.attributes(dir .. "/s"))
  end)
end)

describe("starting", function()
  local function fails(c, pattern, status)
    local r = gateway.run(c)
    assert.equal(status or 1, r.status, r.stderr)
    assert.matches(pattern, r.stderr)
    assert.equal(1, select(2, r.stderr:gsub("\n", "")), r.stderr)
  end

  it("fails with one line when the port is taken, with workers too", function()
    local gw = start()
    local address = gw.address:gsub("%p", "%%%0")
    fails(config{ gateway = { listen = gw.address } }, "cannot listen on " .. address .. ".*in use")
    local many = start{ gateway = { workers = 2 } }
    fails(config{ gateway = { listen = many.address, workers = 2 } }, "in use")
  end)

  it("fails with one line when something is missing or wrong", function()
    fails(config{ policy = { script = "nowhere.lua" } }, "nowhere.lua")
    local dir = tmp.dir()
    fails(config{ policy = { script = tmp.write(dir, "bad.lua", "return 7") } }, "bad.lua")
    fails(config{ gateway = { listen = "0.0.0.0:0" } }, "other machines.*gateway.apiKeys")
    fails(config{ gateway = { listen = "unix:/nowhere/at/all" } }, "unix:/nowhere/at/all")
    fails(config{ gateway = { wrokers = 2 } }, 'gateway.wrokers.*did you mean "workers"')
    local usage = gateway.run(config(), "--listen", "elsewhere")
    assert.equal(2, usage.status)
  end)

  it("listens elsewhere only with keys", function()
    local gw = start{ gateway = { listen = "0.0.0.0:0", apiKeys = { KEY } } }
    gw.address = gw.address:gsub("^0%.0%.0%.0", "127.0.0.1")
    assert.equal(200, gw:chat({}, bearer(KEY)).status)
    assert.equal(401, gw:chat().status)
  end)
end)

describe("reloading", function()
  local ROUTER = [[return {
    should_failover = function() return false end,
    verdict = function() return "unreachable" end,
    route = function(run)
      local reply, failure = run:primary()
      return reply, failure
    end,
  }]]

  it("changes configuration and policy without dropping a request", function()
    local gw = start()
    central:set{ inference = { { wait_ms = 5 }, { json = { ok = true } } } }
    local open = {}
    for i = 1, 8 do open[i] = gw:open() end
    local request = client.request{ path = "/v1/chat/completions", json = { model = "claude" } }
    for round = 1, 20 do
      for i = 1, 8 do open[i]:send(request) end
      if round % 4 == 0 then gw:signal("sighup") end
      for i = 1, 8 do assert.equal(200, open[i]:read_reply().status) end
    end
    for i = 1, 8 do open[i]:close() end
    assert.is_truthy(gw:wait_log("msg=reloaded"))
    central:set{ inference = OUTAGE }
    assert.equal("true", gw:chat().headers["x-deputy-failover"])
    local script = tmp.write(gw.dir, "p.lua", ROUTER)
    local c = config{ gateway = { apiKeys = { KEY } } }
    c.policy = { script = script }
    gw:write(c)
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("msg=reloaded policy=" .. script:gsub("%p", "%%%0")))
    assert.equal(401, gw:chat().status)
    assert.same({ 503, OUTAGE.body }, { gw:chat({}, bearer(KEY)).status, gw:chat({}, bearer(KEY)).body })
  end)

  it("reaches every worker", function()
    local gw = start{ gateway = { workers = 3 } }
    gw:write(config{ gateway = { workers = 3, apiKeys = { KEY } } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("msg=reloaded"))
    uv.sleep(200)
    for _ = 1, 20 do assert.equal(401, gw:chat().status) end
  end)

  it("changes nothing when something is wrong, and says what", function()
    local gw = start()
    central:set{ inference = OUTAGE }
    tmp.write(gw.dir, "deputy.json", '{"central": {"url": 7}, "gatway": {}}')
    gw:signal("sighup")
    local problem = gw:wait_log('msg="the reload changed nothing" problem=([^\n]+)')
    assert.matches("gatway", problem)
    assert.matches("central.url", problem)
    local c = config()
    c.policy = { script = tmp.write(gw.dir, "bad.lua", "return {") }
    gw:write(c)
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("bad.lua"))
    assert.equal("true", gw:chat().headers["x-deputy-failover"])
    assert.matches("last reload failed", gw:ask{ path = "/readyz" }.body)
    assert.is_truthy(gw:ask{ path = "/metrics" }.body:find('deputy_reloads_total{result="failed"} 2', 1, true))
    gw:write(config{ gateway = { listen = "0.0.0.0:1" } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("changes with a restart alone[^\n]*key=gateway.listen"))
    assert.equal(200, gw:chat().status)
  end)

  it("never takes away the last key of a gateway that others can reach", function()
    local gw = start{ gateway = { listen = "0.0.0.0:0", apiKeys = { KEY } } }
    gw.address = gw.address:gsub("^0%.0%.0%.0", "127.0.0.1")
    gw:write(config{ gateway = { listen = "0.0.0.0:0" } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("the reload changed nothing[^\n]*nobody would need a key"))
    assert.equal(401, gw:chat().status)
    assert.equal(200, gw:chat({}, bearer(KEY)).status)
  end)

  it("comes by itself when the script changes", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", ROUTER)
    local c = config()
    c.policy = { script = script }
    central:set{ inference = OUTAGE }
    local gw = gateway.start(c, { dir = dir })
    assert.equal(503, gw:chat().status)
    tmp.write(dir, "p.new", tmp.read("lua/router.lua"))
    assert(os.rename(dir .. "/p.new", script))
    assert.is_truthy(gw:wait_log("msg=reloaded"))
    assert.equal(200, gw:chat().status)
    tmp.write(dir, "p.lua", "nonsense")
    assert.is_truthy(gw:wait_log("changed nothing"))
    assert.equal(200, gw:chat().status)
  end)
end)

describe("ending", function()
  it("lets what is in flight finish", function()
    central:set{ inference = { { wait_ms = 300 }, { json = { late = true } } } }
    local gw = start()
    local idle, busy = gw:open(), gw:open()
    busy:send(client.request{ path = "/v1/chat/completions", json = { model = "claude" } })
    central:wait_until(function() return central:count("POST") == 1 end)
    gw:signal("sigterm")
    assert.is_truthy(gw:wait_log("msg=draining"))
    assert.is_false(idle:fill())
    assert.is_false((pcall(client.open, gw.address)))
    local r = busy:read_reply()
    assert.same({ 200, '{"late":true}', "close" }, { r.status, r.body, r.headers.connection })
    idle:close()
    busy:close()
    assert.equal(0, gw:wait())
  end)

  it("waits no longer than it was told", function()
    central:set{ inference = { { stall = true } } }
    local gw = start{ gateway = { drainMs = 200, workers = 2 } }
    local busy = gw:open()
    busy:send(client.request{ path = "/v1/chat/completions", json = { model = "claude" } })
    central:wait_until(function() return central:count("POST") == 1 end)
    local began = uv.hrtime()
    gw:signal("sigint")
    local r = busy:read_reply()
    assert.same({ 503, "shutting_down" }, { r.status, cjson.decode(r.body).error.code })
    busy:close()
    assert.equal(0, gw:wait())
    assert.is_true((uv.hrtime() - began) / 1e6 < 1500)
  end)

  it("tells the service manager how it goes", function()
    local dir = tmp.dir()
    local unix = require "socket.unix"
    local sock = assert(unix.dgram())
    assert(sock:bind(dir .. "/notify"))
    sock:settimeout(5)
    local gw = start({}, { dir = dir, env = { NOTIFY_SOCKET = dir .. "/notify" } })
    assert.equal("READY=1\n", sock:receive())
    gw:signal("sighup")
    assert.matches("^RELOADING=1\nMONOTONIC_USEC=%d+\n$", sock:receive())
    assert.equal("READY=1\n", sock:receive())
    gw:signal("sigterm")
    assert.equal("STOPPING=1\n", sock:receive())
    assert.equal(0, gw:wait())
    sock:close()
  end)
end)
