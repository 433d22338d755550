-- deputy central serve as a process: inference through to a real upstream, its errors, its end, and what is refused.
local cjson = require "cjson"
local client = require "spec.support.client"
local centrals = require "spec.support.central"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local KEY = "sk-upstream-very-secret"
local CANCEL_MS = 1000

local upstream, central, alice

local function bearer(token) return { Authorization = "Bearer " .. token } end

local function start(options)
  options = options or {}
  options.env = options.env or { UPSTREAM_KEY = KEY }
  central = centrals.start(options)
  return central
end

-- A central whose LLM "claude" lives at the upstream, and alice who may view and run it.
local function start_with_claude(options, llm)
  start(options)
  local fields = { url = upstream.url .. "/v1", model = "qwen3", apiKeyEnv = "UPSTREAM_KEY" }
  for field, value in pairs(llm or {}) do fields[field] = value or nil end
  local id = central:llm("claude", fields)
  alice = central:user("alice", { { "view", "claude" }, { "run", "claude" } })
  return id
end

local function question(fields)
  local json = { model = "claude", messages = { { role = "user", content = "hi" } } }
  for name, value in pairs(fields or {}) do json[name] = value end
  return json
end

local function ask(path, fields, token)
  return central:call("POST", path or "/v1/chat/completions", token or alice, question(fields))
end

local function code_of(reply)
  return reply.json and reply.json.error and reply.json.error.code
end

before_each(function()
  upstream = peers.openai{ models = { "qwen3" }, api_key = KEY }
end)

after_each(function()
  centrals.stop_all()
  peers.stop_all()
end)

-- ---- inference -----------------------------------------------------------------------------------------------------

describe("inference", function()
  it("goes to the LLM's upstream with the upstream's key and model, and comes back byte for byte", function()
    local id = start_with_claude()
    local answer = '{"id":1.0e2,  "big":12345678901234567890,"choices":[{"index":0,"message":{"role":"assistant",' ..
      '"content":"hi"},"finish_reason":"stop"}]}'
    upstream:set{ routes = { { "POST .*", { body = answer, headers = {
      ["Content-Type"] = "application/json", ["X-Up"] = "1" } } } } }
    for i, path in ipairs{ "/v1/chat/completions", "/api/v1/llms/claude/infer", "/api/v1/llms/" .. id .. "/infer" } do
      local body = '{ "n":12345678901234567890, "x":{"model":"no"},"e":[], "model" : "claude","messages":[]}'
      local r = client.ask(central.address, { path = path, body = body, headers = {
        ["Content-Type"] = "application/json", Authorization = "Bearer " .. alice, ["X-Mine"] = "yes" } })
      assert.same({ 200, answer, true }, { r.status, r.body, r.complete })
      assert.equal("1", r.headers["x-up"])
      assert.matches("^%x+%-%d+$", r.headers["x-deputy-run"])
      local seen = upstream:requests("POST")[i]
      assert.equal((body:gsub('"claude"', '"qwen3"')), seen.body)
      assert.same({ "/v1/chat/completions", "Bearer " .. KEY, "yes", "identity" },
        { seen.path, seen.headers.authorization, seen.headers["x-mine"], seen.headers["accept-encoding"] })
      assert.matches("^00%-%x+%-%x+%-01$", seen.headers.traceparent)
    end
    assert.is_false(upstream:saw(alice))
  end)

  it("needs no model in the body where the path names the LLM", function()
    start_with_claude()
    local headers = { ["Content-Type"] = "application/json", Authorization = "Bearer " .. alice }
    local r = client.ask(central.address, { path = "/api/v1/llms/claude/infer", body = '{"messages":[]}',
      headers = headers })
    assert.equal(200, r.status, r.body)
    assert.equal('{"model":"qwen3","messages":[]}', upstream:requests("POST")[1].body)
    for _, body in ipairs{ '{"model":5}', '{"model":"a","model":"b"}', "[]", "" } do
      r = client.ask(central.address, { path = "/api/v1/llms/claude/infer", body = body, headers = headers })
      assert.equal(400, r.status, body)
    end
    assert.equal(1, upstream:count("POST"))
  end)

  it("takes the model by its id too", function()
    local id = start_with_claude()
    assert.equal(200, ask(nil, { model = id }).status)
    assert.equal("qwen3", cjson.decode(upstream:requests("POST")[1].body).model)
  end)

  it("reaches every endpoint, and Anthropic's libraries with their own header", function()
    start_with_claude()
    upstream:set{ routes = {
      { "POST /v1/responses", { json = { object = "response", output = {} } } },
      { "POST /v1/messages", { json = { type = "message", content = {} } } },
    } }
    for _, endpoint in ipairs{ "chat/completions", "completions", "embeddings", "responses", "messages" } do
      local r = ask("/v1/" .. endpoint, { prompt = "x", input = "x" })
      assert.same({ endpoint, 200 }, { endpoint, r.status })
    end
    local r = client.ask(central.address, { path = "/v1/messages", json = question(),
      headers = { ["x-api-key"] = alice } })
    assert.equal(200, r.status)
    assert.same({ "Bearer " .. KEY }, { upstream:requests("POST")[6].headers.authorization })
    assert.is_nil(upstream:requests("POST")[6].headers["x-api-key"])
    assert.is_false(upstream:saw(alice))
  end)

  it("passes a stream event by event, as it comes", function()
    start_with_claude()
    local word = 'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
    upstream:set{ routes = { { "POST .*", { sse = { word:sub(7, -3), word:sub(7, -3) }, every_ms = 150,
      done = true } } } }
    local c = client.open(central.address)
    c:send(client.request{ path = "/v1/chat/completions", json = question{ stream = true }, headers = bearer(alice) })
    local head = c:read_head()
    assert.same({ 200, "text/event-stream" }, { head.status, head.headers["content-type"] })
    local first = c:read_some()
    assert.equal(word, first)
    local rest = {}
    for some in function() return c:read_some() end do rest[#rest + 1] = some end
    assert.is_true(c.complete)
    assert.equal(word .. "data: [DONE]\n\n", table.concat(rest))
    c:close()
    assert.is_truthy(central:wait_log("outcome=ok"))
  end)

  it("needs no key for an upstream that wants none", function()
    upstream:set{ api_key = false }
    start_with_claude({}, { apiKeyEnv = false })
    assert.equal(200, ask().status)
    assert.is_nil(upstream:requests("POST")[1].headers.authorization)
  end)
end)

-- ---- keys ----------------------------------------------------------------------------------------------------------

describe("an upstream's key", function()
  it("comes from a file, as it is when it is used", function()
    local dir = tmp.dir()
    local file = tmp.write(dir, "key", KEY .. "\n")
    start_with_claude({}, { apiKeyEnv = false, apiKeyFile = file })
    assert.equal(200, ask().status)
    upstream:set{ api_key = "sk-another-secret" }
    assert.equal("upstream_rejected_key", code_of(ask()))
    tmp.write(dir, "key", "sk-another-secret")
    assert.equal(200, ask().status)
  end)

  for what, key in pairs{
    ["is not in the environment"] = { apiKeyEnv = "NOT_SET_ANYWHERE" },
    ["has no file"] = { apiKeyEnv = false, apiKeyFile = "/nonexistent/key" },
    ["is a directory"] = { apiKeyEnv = false, apiKeyFile = "/" },
    ["would never end"] = { apiKeyEnv = false, apiKeyFile = "/dev/zero" },
  } do
    it("that " .. what .. " is an error of ours, and nothing is sent", function()
      start_with_claude({}, key)
      local r = ask()
      assert.same({ 502, "upstream_key_missing" }, { r.status, code_of(r) })
      assert.equal(0, upstream:bytes())
      assert.is_nil(r.body:find(key.apiKeyEnv or key.apiKeyFile, 1, true), "a caller need not know where keys are")
      assert.is_truthy(central:wait_log("cannot be used"))
      assert.is_truthy(central:log():find(key.apiKeyEnv or key.apiKeyFile, 1, true))
    end)
  end

  it("with bytes that no header can hold is an error of ours", function()
    local file = tmp.write(nil, "key", "sk-one\nsk-two-very-secret")
    start_with_claude({}, { apiKeyEnv = false, apiKeyFile = file })
    local r = ask()
    assert.same({ 502, "upstream_misconfigured" }, { r.status, code_of(r) })
    assert.equal(0, upstream:bytes())
    assert.is_nil((r.body .. central:log()):find("very-secret", 1, true))
  end)
end)

describe("where a key comes from", function()
  it("is for admins to say: an editor could have it sent to a server of his own", function()
    start_with_claude()
    local eve = central:user("eve", { "create", "edit", "view", "run" })
    local mine = { url = upstream.url .. "/mine/v1" }
    local function try(method, path, json) return central:call(method, path, eve, json).status end
    assert.equal(403, try("PUT", "/api/v1/llms/claude", mine))
    assert.equal(403, try("PUT", "/api/v1/llms/claude", { apiKeyFile = "/etc/hostname" }))
    assert.equal(403, try("POST", "/api/v1/llms", { name = "thief", url = mine.url, apiKeyEnv = "UPSTREAM_KEY" }))
    assert.equal(403, try("POST", "/api/v1/llms", { name = "thief", url = mine.url, apiKeyFile = "/etc/hostname" }))
    assert.equal(200, try("PUT", "/api/v1/llms/claude", { description = "of use" }))
    assert.equal(201, try("POST", "/api/v1/llms", { name = "mine", url = mine.url, apiKeyEnv = cjson.null }))
    assert.equal(200, try("PUT", "/api/v1/llms/mine", { url = upstream.url .. "/other/v1" }))
    assert.equal(403, try("PUT", "/api/v1/llms/mine", { apiKeyEnv = "UPSTREAM_KEY" }))
    assert.equal(200, central:call("PUT", "/api/v1/llms/claude", nil, mine).status)
  end)
end)

-- ---- an upstream's errors ------------------------------------------------------------------------------------------

describe("an upstream's answer", function()
  for _, status in ipairs{ 401, 403, 407 } do
    it("of " .. status .. " is about the central, not about its caller", function()
      start_with_claude()
      upstream:set{ routes = { { "POST .*", { status = status, headers = { ["WWW-Authenticate"] = "Bearer" },
        body = '{"error":{"message":"who are you?"}}' } } } }
      local r = ask()
      assert.same({ 502, "upstream_rejected_key" }, { r.status, code_of(r) })
      assert.is_nil(r.headers["www-authenticate"])
      assert.is_nil(r.body:find("who are you", 1, true))
      assert.is_truthy(central:wait_log("code=upstream_rejected_key"))
    end)
  end

  for _, status in ipairs{ 400, 404, 422, 429, 500, 503 } do
    it("of " .. status .. " passes as it came", function()
      start_with_claude()
      local body = '{"error": {"message": "no", "code":"its_own"}}'
      upstream:set{ routes = { { "POST .*", { status = status, headers = { ["Retry-After"] = "7" }, body = body } } } }
      local r = ask()
      assert.same({ status, body, "7" }, { r.status, r.body, r.headers["retry-after"] })
    end)
  end

  it("never tells the caller the key that it was asked with", function()
    start_with_claude()
    local quoting = '{"error":{"message":"no quota for ' .. KEY .. ', ' .. KEY .. '"}}'
    for _, status in ipairs{ 200, 400, 404, 429, 500, 503 } do
      upstream:set{ routes = { { "POST .*", { status = status, body = status == 200 and "{}" or quoting, headers = {
        ["Content-Type"] = "application/json", ["X-Asked-With"] = "Bearer " .. KEY, ["X-Other"] = "1" } } } } }
      local r = ask()
      assert.same({ status, "1" }, { r.status, r.headers["x-other"] })
      assert.is_nil(r.headers["x-asked-with"])
      assert.equal(status == 200 and "{}" or quoting:gsub("[%w-]*very%-secret", ("*"):rep(#KEY)), r.body)
    end
  end)

  it("that leads elsewhere stays here: a client that followed would take his token there", function()
    start_with_claude()
    for _, status in ipairs{ 301, 302, 303, 307, 308 } do
      upstream:set{ routes = { { "POST .*", { status = status, headers = { Location = "http://192.0.2.1/v1" } } } } }
      local r = ask()
      assert.same({ 502, "upstream_redirected" }, { r.status, code_of(r) })
      assert.is_nil(r.headers.location)
    end
    assert.equal(5, upstream:count("POST"))
  end)

  it("that is none says who is to blame: down, slow, or no use", function()
    start{ config = { timeouts = { connectMs = 300, firstByteMs = 300 } } }
    central:llm("down", { url = peers.refused() .. "/v1" })
    central:llm("far", { url = peers.blackhole() .. "/v1" })
    local slow = peers.start{ default = { { stall = true } } }
    local page = peers.start{ default = { headers = { ["Content-Type"] = "text/html" }, body = "<html>welcome" } }
    local gone = peers.start{ default = { { reset = true } } }
    central:llm("slow", { url = slow.url .. "/v1" })
    central:llm("page", { url = page.url .. "/v1" })
    central:llm("gone", { url = gone.url .. "/v1" })
    alice = central:user("alice", { "run" })
    for llm, expected in pairs{
      down = { 502, "upstream_unreachable" }, far = { 504, "upstream_timeout" }, slow = { 504, "upstream_timeout" },
      page = { 502, "upstream_malformed" }, gone = { 502, "upstream_unreachable" },
    } do
      local r = ask(nil, { model = llm })
      assert.same({ llm, table.unpack(expected) }, { llm, r.status, code_of(r) })
      assert.is_nil(r.body:find("127.0.0.1", 1, true))
    end
    local r = ask("/v1/messages", { model = "down" })
    assert.same({ 502, "error" }, { r.status, r.json.type })
  end)

  it("that breaks off ends with an error event and no clean end", function()
    start_with_claude()
    local word = 'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
    upstream:set{ routes = { { "POST .*", {
      { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" },
      { send = ("%x\r\n%s\r\n"):format(#word, word) }, { wait_ms = 100 }, { reset = true },
    } } } }
    local r = ask(nil, { stream = true })
    assert.same({ 200, false }, { r.status, r.complete })
    assert.equal("upstream_cut", cjson.decode(r.body:match('\n\ndata: ({"error":[^\n]+})\n\n$')).error.code)
    assert.is_nil(r.body:find("[DONE]", 1, true))
    assert.is_truthy(central:wait_log("outcome=cut"))
  end)
end)

-- ---- callers -------------------------------------------------------------------------------------------------------

describe("a caller", function()
  it("who leaves takes the upstream's work along", function()
    start_with_claude()
    upstream:set{ routes = { { "POST .*", {
      { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" },
      { repeat_send = 'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n', every_ms = 5 },
    } } } }
    local c = client.open(central.address)
    c:send(client.request{ path = "/v1/chat/completions", json = question{ stream = true }, headers = bearer(alice) })
    c:read_head()
    c:read_some()
    c:close()
    assert.is_truthy(upstream:wait_until(function(peer)
      local ended = peer:connection_log()[1].ended
      return ended and ended:find("client")
    end, CANCEL_MS))
    assert.is_truthy(central:wait_log("outcome=cancelled"))
  end)

  it("without permission is refused at the head, however long the body would have been", function()
    start_with_claude()
    local bob = central:user("bob", { { "view", "claude" } })
    local function head_alone(path, token)
      local c = client.open(central.address)
      c:send(("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: 30000000\r\n\r\n")
        :format(path, token and "Authorization: Bearer " .. token .. "\r\n" or ""))
      local reply = assert(c:read_reply())
      c:close()
      return reply.status
    end
    assert.equal(403, head_alone("/api/v1/llms/claude/infer", bob))
    assert.equal(401, head_alone("/api/v1/llms/claude/infer", nil))
    assert.equal(401, head_alone("/v1/chat/completions", "dpt_nonsense"))
    assert.equal(413, head_alone("/api/v1/llms", central.admin))
    assert.equal(0, upstream:bytes())
  end)

  it("sends no body to where none is taken, with and without a token", function()
    start()
    for path, status in pairs{ ["/v1/nope"] = 404, ["/v1/models"] = 405, ["/api/v1/llms/a/b/infer"] = 404 } do
      for _, length in ipairs{ "Content-Length: 30000000", "Transfer-Encoding: chunked" } do
        local c = client.open(central.address, 2000)
        c:send(("POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"):format(path, length))
        assert.same({ path, status }, { path, c:read_reply().status })
        c:close()
      end
    end
    for field, status in pairs{ ["Transfer-Encoding: chunked"] = 411, ["Content-Length: 2000000"] = 413 } do
      local c = client.open(central.address, 2000)
      c:send(("POST /api/v1/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n")
        :format(central.admin, field))
      local reply = c:read_reply()
      assert.equal(status, reply.status)
      assert.matches("a body here may have 65536 bytes", reply.body, 1, true)
      c:close()
    end
  end)

  it("may name the host in the request line", function()
    start()
    central:llm("claude", { url = "http://127.0.0.1:9/v1" })
    local function look(host)
      local c = client.open(central.address, 2000)
      c:send(("GET http://%s/api/v1/llms/claude?disabled=show HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n")
        :format(host, central.address, central.admin))
      local status = c:read_reply().status
      c:close()
      return status
    end
    assert.same({ 200, 400 }, { look(central.address), look("elsewhere") })
  end)

  it("with a long body who may run it is answered", function()
    start_with_claude()
    local r = ask("/api/v1/llms/claude/infer", { padding = ("x"):rep(5000000) })
    assert.equal(200, r.status)
    assert.equal(1, upstream:count("POST"))
  end)

  it("hears what is wrong with a body only after who he is was clear", function()
    start_with_claude()
    local function send(token, body, type_of_body)
      return client.ask(central.address, { path = "/v1/chat/completions", body = body, headers = {
        Authorization = token and "Bearer " .. token or false,
        ["Content-Type"] = type_of_body or "application/json",
      } })
    end
    assert.equal(401, send(nil, "nonsense").status)
    assert.equal(401, send("dpt_nonsense", "nonsense").status)
    for _, body in ipairs{ "nonsense", "[]", "{}", '{"model":1}', '{"model":"a","model":"b"}', "" } do
      local r = send(alice, body)
      assert.same({ body, 400, "invalid_request" }, { body, r.status, code_of(r) })
    end
    assert.equal(415, send(alice, cjson.encode(question()), "text/plain").status)
    assert.equal(0, upstream:bytes())
  end)

  it("who sends two tokens is told to choose", function()
    start_with_claude()
    local r = client.ask(central.address, { path = "/api/v1/llms/claude", headers = {
      { "Authorization", "Bearer " .. alice }, { "Authorization", "Bearer " .. central.admin } } })
    assert.same({ 400, "duplicate_header" }, { r.status, code_of(r) })
  end)

  it("gets HEAD as he would get GET, without its body", function()
    start_with_claude()
    for _, token in ipairs{ alice, central.admin, "dpt_nonsense" } do
      for _, path in ipairs{ "/api/v1/llms/claude", "/api/v1/llms", "/api/v1/llms/nobody", "/nothing" } do
        local get, head = central:call("GET", path, token), central:call("HEAD", path, token)
        get.headers.date, head.headers.date = nil, nil
        assert.same({ path, get.status, get.headers }, { path, head.status, head.headers })
        assert.equal(tostring(#get.body), head.headers["content-length"])
        assert.equal("", head.body)
      end
    end
  end)

  it("beyond the limit of requests in flight is asked to come again", function()
    start_with_claude{ config = { limits = { maxInFlight = 1 } } }
    upstream:set{ routes = { { "POST .*", { { stall = true } } } } }
    local c = client.open(central.address)
    c:send(client.request{ path = "/v1/chat/completions", json = question(), headers = bearer(alice) })
    assert.is_truthy(upstream:wait_until(function(peer) return peer:count("POST") == 1 end))
    local r = ask()
    assert.same({ 503, "too_many_requests_in_flight", "1" }, { r.status, code_of(r), r.headers["retry-after"] })
    c:close()
  end)
end)

-- ---- verdicts ------------------------------------------------------------------------------------------------------

describe("a verdict", function()
  it("is that of the moment: paused, revoked, deleted hold for the very next request", function()
    start_with_claude()
    local function both()
      return { central:call("HEAD", "/api/v1/llms/claude", alice).status, ask().status }
    end
    assert.same({ 200, 200 }, both())
    assert.equal(200, central:call("PUT", "/api/v1/llms/claude", nil, { paused = true }).status)
    assert.same({ 200, 503 }, both())
    assert.is_truthy(central:wait_log("status=503 user=alice llm=claude code=llm_paused"))
    assert.equal(200, central:call("PUT", "/api/v1/llms/claude", nil, { paused = false }).status)
    assert.same({ 200, 200 }, both())
    central:deputy("revoke", "--user", "alice", "--role", "run", "--llm", "claude")
    assert.same({ 200, 403 }, both())
    central:deputy("revoke", "--user", "alice", "--role", "view", "--llm", "claude")
    assert.same({ 403, 403 }, both())
    assert.equal(2, upstream:count("POST"))
  end)

  it("lets deputy serve stand in for an upstream that is down, and stops it when it is revoked", function()
    start_with_claude({}, { url = peers.refused() .. "/v1" })
    local model = peers.openai{ models = { "tiny" } }
    local gw = gateway.start{
      central = { url = central.url, bearerToken = alice },
      providers = { { name = "local", type = "openai", url = model.url .. "/v1", model = "tiny",
        failoverFor = "claude" } },
      policy = { settings = { retries = 0, breaker = false } },
    }
    local r = gw:chat()
    assert.same({ 200, "local" }, { r.status, r.headers["x-deputy-via"] })
    central:deputy("revoke", "--user", "alice", "--role", "view", "--llm", "claude")
    model:clear()
    r = gw:chat()
    assert.same({ 502, "upstream_unreachable" }, { r.status, code_of(r) })
    assert.equal(0, model:bytes())
  end)
end)

-- ---- the process ---------------------------------------------------------------------------------------------------

describe("the process", function()
  local STREAM = {
    { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" },
    { drip = ('data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'):rep(30) .. "data: [DONE]\n\n",
      every_ms = 10, size = 54 },
  }

  local function open_stream()
    local c = client.open(central.address)
    c:send(client.request{ path = "/v1/chat/completions", json = question{ stream = true }, headers = bearer(alice) })
    c:read_head()
    c:read_some()
    return c
  end

  it("lets streams end when it is asked to stop, and takes nobody else", function()
    start_with_claude()
    upstream:set{ routes = { { "POST .*", STREAM } } }
    local c = open_stream()
    central:signal("sigterm")
    assert.is_truthy(central:wait_log("msg=draining"))
    assert.is_nil((client.open and pcall(client.open, central.address)) or nil)
    local parts = {}
    for some in function() return c:read_some() end do parts[#parts + 1] = some end
    assert.is_true(c.complete)
    assert.is_truthy(table.concat(parts):find("[DONE]", 1, true))
    c:close()
    assert.equal(0, central:wait(5000))
  end)

  it("cuts what is left when it is asked twice, and says so", function()
    start_with_claude()
    upstream:set{ routes = { { "POST .*", {
      { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" },
      { repeat_send = 'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n', every_ms = 5 },
    } } } }
    local c = open_stream()
    central:signal("sigterm")
    assert.is_truthy(central:wait_log("msg=draining"))
    central:signal("sigterm")
    local parts = {}
    for some in function() return c:read_some() end do parts[#parts + 1] = some end
    assert.is_false(c.complete)
    assert.is_truthy(table.concat(parts):find('"shutting_down"', 1, true))
    c:close()
    assert.equal(0, central:wait(5000))
  end)

  it("reads its Lua files and keys again at SIGHUP, and keeps serving", function()
    start_with_claude()
    assert.equal(200, ask().status)
    central:signal("sighup")
    assert.is_truthy(central:wait_log("msg=reloaded"))
    assert.equal(200, ask().status)
  end)

  it("keeps what was written, and sees what others write, after SIGHUP", function()
    start_with_claude()
    local function probe() return central:call("HEAD", "/api/v1/llms/claude", alice).status end
    for i = 1, 2 do
      central:signal("sighup")
      assert.is_truthy(central:wait_log(("msg=reloaded.*"):rep(i)))
      central:deputy("revoke", "--user", "alice", "--role", "view", "--llm", "claude")
      assert.equal(403, probe())
      central:deputy("grant", "--user", "alice", "--role", "view", "--llm", "claude")
      assert.equal(200, probe())
      assert.equal(201, central:call("POST", "/api/v1/groups", nil, { name = "after-" .. i }).status)
      assert.matches("after%-" .. i, central:deputy("group list"))
    end
    assert.equal(0, central:stop())
    assert.matches("after%-1 .*\nafter%-2 ", central:deputy("group list"))
  end)

  it("makes no empty database at SIGHUP when its own is gone", function()
    start_with_claude()
    local file = central.db:match("^sqlite:(.*)")
    for _, suffix in ipairs{ "", "-wal", "-shm" } do os.remove(file .. suffix) end
    central:signal("sighup")
    assert.is_truthy(central:wait_log('the reload changed nothing" problem="there is no database [^"]*central.db"'))
    assert.is_truthy(central:wait_log("central.db was removed or replaced"))
    assert.equal(503, central:call("HEAD", "/api/v1/llms/claude", alice).status)
    assert.is_nil(io.open(file, "rb"))
  end)

  it("writes a line for each request but allowed looks, and never a token, a key or a body", function()
    start_with_claude()
    ask(nil, { messages = { { role = "user", content = "a-private-question" } } })
    central:call("GET", "/api/v1/llms/claude", alice)
    central:call("GET", "/api/v1/llms/claude?secret=in-the-query", "dpt_nonsense")
    local line = "msg=run request=%x+%-%d+ method=POST route=%S+ status=200 user=alice llm=claude "
    assert.is_truthy(central:wait_log(line))
    assert.is_truthy(central:wait_log("method=GET route=%S+ status=401 code=invalid_token"))
    local log = central:log()
    assert.is_nil(log:find("method=GET route=%S+ status=200"))
    for _, secret in ipairs{ alice, central.admin, KEY, "a-private-question", "in-the-query" } do
      assert.is_nil(log:find(secret, 1, true), secret)
    end
  end)

  it("can write its log as JSON, with allowed looks at debug level", function()
    start_with_claude{ config = { log = { format = "json", level = "debug" } } }
    central:call("HEAD", "/api/v1/llms/claude", alice)
    local line = assert(central:wait_log('[^\n]+"method":"HEAD"[^\n]+'))
    local entry = cjson.decode(line)
    assert.same({ "debug", "request", "alice", 200 }, { entry.level, entry.msg, entry.user, entry.status })
  end)

  it("says how it is without a token, and nothing of LLMs and users", function()
    start_with_claude()
    ask()
    assert.same({ 200, "ok\n" }, { client.ask(central.address, { path = "/healthz" }).status,
      client.ask(central.address, { path = "/healthz" }).body })
    assert.equal(200, client.ask(central.address, { path = "/readyz" }).status)
    assert.equal(405, client.ask(central.address, { path = "/readyz", method = "DELETE" }).status)
    local metrics = client.ask(central.address, { path = "/metrics" }).body
    assert.is_truthy(metrics:find('deputy_central_replies_total{method="POST",status="200"} 1', 1, true))
    assert.is_truthy(metrics:find("deputy_central_decision_seconds_count", 1, true))
    assert.is_nil(metrics:find("claude") or metrics:find("alice"))
  end)

  it("that cannot start says why in one line", function()
    local dir = tmp.dir()
    tmp.write(dir, "other.db", ("not a database "):rep(100))
    local taken = peers.listener{}
    shell.run{ env = gateway.environment(dir), cwd = dir, gateway.DEPUTY, "central", "init", "--db",
      "sqlite:" .. dir .. "/new.db" }
    for expected, args in pairs{
      ["x.db"] = { "--listen", "127.0.0.1:0", "--db", "sqlite:" .. dir .. "/none/x.db" },
      ["not a database"] = { "--listen", "127.0.0.1:0", "--db", "sqlite:" .. dir .. "/other.db" },
      ["already in use"] = { "--listen", "127.0.0.1:" .. taken.port, "--db", "sqlite:" .. dir .. "/new.db" },
    } do
      local r = shell.run{ env = gateway.environment(dir), cwd = dir, timeout_ms = 20000, gateway.DEPUTY, "central",
        "serve", table.unpack(args) }
      assert.same({ 1, "" }, { r.status, r.stdout })
      assert.matches("^deputy central[^\n]*: [^\n]*" .. expected .. "[^\n]*\n$", r.stderr)
    end
  end)

  it("takes no Lua module from the folder in which it was started", function()
    local dir = tmp.dir()
    tmp.write(dir, "socket.lua", 'error "taken from here"')
    start{ dir = dir, env = { LUA_PATH = "./?.lua;;", LUA_CPATH = "./?.so;;" } }
    assert.equal(200, central:call("GET", "/api/v1/llms").status)
  end)

  it("serves on a Unix socket too", function()
    local dir = tmp.dir()
    start_with_claude{ dir = dir, listen = "unix:" .. dir .. "/central.sock" }
    assert.equal("unix:" .. dir .. "/central.sock", central.address)
    assert.equal(200, ask().status)
  end)

  it("takes upstreams by the hundred, each with its own settings", function()
    start{}
    for i = 1, 300 do central:llm("llm-" .. i, { url = upstream.url .. "/v1", model = "qwen3",
      apiKeyEnv = "UPSTREAM_KEY" }) end
    alice = central:user("alice", { "run" })
    for i = 1, 300 do assert.equal(200, ask(nil, { model = "llm-" .. i }).status) end
    assert.equal(200, ask(nil, { model = "llm-1" }).status)
    assert.equal(301, upstream:count("POST"))
  end)
end)
