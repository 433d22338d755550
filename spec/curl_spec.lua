-- curl before deputy serve: the ways of HTTP that the libraries from npm do not go.
local cjson = require "cjson"
local lfs = require "lfs"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local TOKEN = "tok-caller-very-secret"
local CHAT = "/v1/chat/completions"
local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

local function chunk(text) return { send = ("%x\r\n%s\r\n"):format(#text, text) } end
local function event(delta, finish)
  return ('data: {"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}\n\n'):format(delta, finish or "null")
end
local WORD, DONE = event '{"content":"word"}', event("{}", '"stop"') .. "data: [DONE]\n\n"
local DRIPS = { { send = HEAD }, chunk(WORD), { wait_ms = 250 }, chunk(WORD), { wait_ms = 250 }, chunk(DONE),
  { send = "0\r\n\r\n" } }

local central, gw

local function start(changes)
  central = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
  gw = gateway.start{ central = { url = central.url }, gateway = changes or {} }
end

local function curl(spec)
  local unix = gw.address:match("^unix:(.*)$")
  local command = { "curl", "-sS", "-H", "Authorization: Bearer " .. TOKEN, timeout_ms = 20000 }
  if unix then command[#command + 1], command[#command + 2] = "--unix-socket", unix end
  for _, word in ipairs(spec) do command[#command + 1] = word end
  for i, word in ipairs(command) do
    command[i] = word:gsub("^URL", "http://" .. (unix and "localhost" or gw.address))
  end
  return shell.run(command)
end

local function json(fields)
  local body = { model = "claude", messages = { { role = "user", content = "hi" } } }
  for name, value in pairs(fields or {}) do body[name] = value end
  return cjson.encode(body)
end

local function text_of(reply) return cjson.decode(reply).choices[1].message.content end

-- A body of that many bytes, as a file.
local function big_body(size)
  local frame = json{ messages = { { role = "user", content = "PAD" } } }
  local body = frame:gsub("PAD", function() return ("x"):rep(size - #frame + 3) end)
  return tmp.write(nil, "body.json", body), body
end

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

describe("curl", function()
  it("streams: each piece comes when it is sent", function()
    start()
    central:set{ inference = DRIPS }
    local p = shell.start{ "curl", "-sSN", "--json", json{ stream = true }, "-H", "Authorization: Bearer " .. TOKEN,
      "http://" .. gw.address .. CHAT }
    local began = peers.now_us()
    assert.is_truthy(p:wait_for('"word"', 3000))
    local first = peers.now_us() - began
    assert.is_truthy(p:wait_for("%[DONE%]", 3000))
    assert.is_true(peers.now_us() - began - first > 300000)
    local r = p:wait()
    assert.same({ 0, WORD .. WORD .. DONE }, { r.status, r.stdout })
  end)

  it("speaks HTTP/1.0: a stream ends with the connection, a plain reply has its length", function()
    start()
    local plain = curl{ "-0", "-i", "--json", json(), "URL" .. CHAT }
    assert.same({ 0, "Hello from central" }, { plain.status, text_of(plain.stdout:match("\r\n\r\n(.*)$")) })
    assert.is_truthy(plain.stdout:lower():find("content-length:", 1, true))
    central:set{ inference = DRIPS }
    local stream = curl{ "-0", "-i", "--json", json{ stream = true }, "URL" .. CHAT }
    local head, body = stream.stdout:match("^(.-)\r\n\r\n(.*)$")
    assert.same({ 0, WORD .. WORD .. DONE }, { stream.status, body })
    assert.is_nil(head:lower():find("transfer-encoding", 1, true))
    assert.is_truthy(head:lower():find("connection: close", 1, true))
  end)

  it("is told of a cut over HTTP/1.0 too", function()
    start()
    central:set{ inference = { { send = HEAD }, chunk(WORD), { wait_ms = 50 }, { reset = true } } }
    local r = curl{ "-0", "--json", json{ stream = true }, "URL" .. CHAT }
    assert.equal(56, r.status) -- a reset: without it nobody could tell
    assert.is_truthy(r.stdout:find('data: {"error":', 1, true))
  end)

  it("uploads much after 100-continue, without waiting for nothing", function()
    start()
    local path, body = big_body(5000000)
    local r = curl{ "-w", "\n%{time_total}", "-H", "Expect: 100-continue", "-H", "Content-Type: application/json",
      "--data-binary", "@" .. path, "URL" .. CHAT }
    local answer, seconds = r.stdout:match("^(.*)\n(.-)$")
    assert.same({ 0, "Hello from central" }, { r.status, text_of(answer) })
    assert.is_true(tonumber(seconds) < 0.9, seconds) -- after 1 s curl would go on by itself
    assert.is_true(central:requests("POST")[1].body == body)
  end)

  it("uploads nothing that would be refused", function()
    start{ maxBodyBytes = 100000 }
    local r = curl{ "-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "-H", "Expect: 100-continue", "-H",
      "Content-Type: application/json", "--data-binary", "@" .. big_body(5000000), "URL" .. CHAT }
    assert.equal("413 0", r.stdout)
    assert.equal(0, central:bytes())
  end)

  it("uploads in chunks", function()
    start()
    local path, body = big_body(300000)
    local r = curl{ "-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/json", "--data-binary",
      "@" .. path, "URL" .. CHAT }
    assert.same({ 0, "Hello from central" }, { r.status, text_of(r.stdout) })
    assert.is_true(central:requests("POST")[1].body == body)
    -- a bound holds without a length too
    gw:write{ central = { url = central.url }, gateway = { maxBodyBytes = 100000 } }
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("reloaded"))
    r = curl{ "-o", "/dev/null", "-w", "%{http_code}", "-H", "Transfer-Encoding: chunked", "-H",
      "Content-Type: application/json", "--data-binary", "@" .. path, "URL" .. CHAT }
    assert.equal("413", r.stdout)
  end)

  it("uses one connection again", function()
    start()
    local r = curl{ "-w", " %{num_connects}\n", "--json", json(), "-o", "/dev/null", "URL" .. CHAT, "-o", "/dev/null",
      "URL" .. CHAT, "-o", "/dev/null", "URL" .. CHAT }
    assert.equal(" 1\n 0\n 0\n", r.stdout)
  end)

  it("asks for heads and options", function()
    start()
    assert.is_truthy(curl{ "-I", "URL/healthz" }.stdout:find("^HTTP/1.1 200"))
    assert.is_truthy(curl{ "-i", "-X", "OPTIONS", "URL" .. CHAT }.stdout:lower():find("allow: [^\r]*post"))
  end)

  it("goes through a Unix socket, which is its owner's", function()
    local dir = tmp.dir()
    start{ listen = "unix:" .. dir .. "/s" }
    assert.equal("rw-------", lfs.attributes(dir .. "/s", "permissions"))
    assert.equal("Hello from central", text_of(curl{ "--json", json(), "URL" .. CHAT }.stdout))
    central:set{ inference = DRIPS }
    local r = curl{ "-N", "--json", json{ stream = true }, "URL" .. CHAT }
    assert.same({ 0, WORD .. WORD .. DONE }, { r.status, r.stdout })
  end)
end)

describe("a raw socket", function()
  it("pipelines: replies come in order, streams among them", function()
    start()
    local each = { DRIPS, "ok", DRIPS, "ok" }
    central:set{ script = [[
      local n = 0
      return function(request, state)
        if request.method ~= "POST" then return nil end
        n = n + 1
        return n % 2 == 1 and state.drips or nil
      end
    ]], drips = DRIPS }
    local c = gw:open()
    local requests = {}
    for i in ipairs(each) do
      requests[i] = client.request{ path = CHAT, headers = { Authorization = "Bearer " .. TOKEN,
        ["Content-Type"] = "application/json" }, body = json{ stream = i % 2 == 1 } }
    end
    c:send(table.concat(requests))
    for i in ipairs(each) do
      local reply = assert(c:read_reply())
      assert.same({ i, 200, true }, { i, reply.status, reply.complete })
      if i % 2 == 1 then
        assert.equal(WORD .. WORD .. DONE, reply.body)
      else
        assert.equal("Hello from central", text_of(reply.body))
      end
    end
    c:close()
  end)
end)
