-- Streams through deputy serve: what passes, what is held back, how it ends, who is told that the caller left.
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"

local TOKEN = "tok-house-very-secret"
local CANCEL_MS = 100

local central, model

local function start(changes, env)
  local c = {
    central = { url = central.url, bearerToken = TOKEN },
    providers = {
      { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = "claude" },
    },
    policy = { settings = { retries = 0, breaker = false } },
    gateway = {},
  }
  for section, fields in pairs(changes or {}) do
    for name, value in pairs(fields) do
      c[section] = c[section] or {}
      c[section][name] = value
    end
  end
  return gateway.start(c, { env = env })
end

local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

local function chunk(text) return { send = ("%x\r\n%s\r\n"):format(#text, text) } end

local function event(delta)
  return 'data: {"choices":[{"index":0,"delta":' .. delta .. ',"finish_reason":null}]}\n\n'
end

local ROLE = event '{"role":"assistant","content":""}'
local WORD = event '{"content":"word"}'
local STOP = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
local LAST = { send = "0\r\n\r\n" }

-- Chunks of a comment, as many as are taken.
local WITHOUT_END = { repeat_send = ("2000\r\n: %s\n\n\r\n"):format(("x"):rep(8188)) }

-- Long enough for what came before to be sent on.
local A_MOMENT = { wait_ms = 100 }

-- A stream of these texts, each in a chunk, and steps after it.
local function stream(texts, ...)
  local steps = { { send = HEAD } }
  for _, text in ipairs(texts) do steps[#steps + 1] = chunk(text) end
  for _, step in ipairs{ ... } do steps[#steps + 1] = step end
  return steps
end

local function request(fields, headers, path)
  local json = { model = "claude", stream = true, messages = { { role = "user", content = "hi" } } }
  for name, value in pairs(fields or {}) do json[name] = value end
  return client.request{ path = path or "/v1/chat/completions", json = json, headers = headers }
end

local function ask(gw, headers, path)
  local c = gw:open()
  c:send(request({}, headers, path))
  local reply = assert(c:read_reply())
  c:close()
  return reply
end

before_each(function()
  local all = { view = { "*" }, run = { "*" } }
  central = peers.central{ llms = { claude = {}, opus = {} }, tokens = { [TOKEN] = all } }
  model = peers.openai{ models = { "qwen3" } }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

describe("a stream", function()
  it("passes as it comes, event by event, byte for byte", function()
    local odd = ": ping\n\ndata: not json\n\n"
    central:set{ inference = stream({ ROLE, WORD }, { wait_ms = 150 }, chunk(odd), chunk(WORD), { wait_ms = 150 },
      chunk(STOP), chunk("data: [DONE]\n\n"), LAST) }
    local gw = start()
    local c = gw:open()
    c:send(request())
    local head = c:read_head()
    assert.same({ 200, "text/event-stream", "false" },
      { head.status, head.headers["content-type"], head.headers["x-deputy-failover"] })
    local parts, times = {}, {}
    for some in function() return c:read_some() end do
      parts[#parts + 1] = some
      times[#times + 1] = uv.hrtime() / 1e6
    end
    assert.is_true(c.complete)
    assert.equal(ROLE .. WORD .. odd .. WORD .. STOP .. "data: [DONE]\n\n", table.concat(parts))
    assert.is_true(times[#times] - times[1] > 250)
    c:close()
  end)

  it("that is complete without [DONE] ends well", function()
    central:set{ inference = stream({ ROLE, WORD, STOP }, LAST) }
    local r = ask(start())
    assert.same({ ROLE .. WORD .. STOP, true }, { r.body, r.complete })
  end)

  for what, inference in pairs{
    ["dies at once"] = { { reset = true } },
    ["dies after its head"] = stream({}, { reset = true }),
    ["dies after a role"] = stream({ ": hello\n\n", ROLE }, { reset = true }),
    ["ends after a role"] = stream({ ROLE }, LAST),
    ["errs in-band before output"] = stream({ ROLE, 'data: {"error":{"message":"overloaded"}}\n\n' }, LAST),
    ["stalls before output"] = stream({ ROLE }, { stall = true }),
  } do
    it("that " .. what .. " fails over", function()
      central:set{ inference = inference }
      local r = ask(start{ timeouts = { firstTokenMs = 200 } })
      assert.same({ 200, "true", "local", true },
        { r.status, r.headers["x-deputy-failover"], r.headers["x-deputy-via"], r.complete })
      assert.is_truthy(r.body:find('"qwen3"', 1, true) and r.body:find("data: [DONE]\n\n", 1, true), r.body)
      assert.is_nil(r.body:find("hello", 1, true))
    end)
  end

  for what, steps in pairs{
    ["is reset"] = { { reset = true } },
    ["is closed"] = { { close = true } },
    ["stalls"] = { { stall = true } },
    ["ends early"] = { LAST },
    ["is cut within a line"] = { chunk('data: {"choices":[{"ind'), { reset = true } },
  } do
    it("that " .. what .. " after output ends with an error, uncleanly", function()
      central:set{ inference = stream({ ROLE, WORD }, A_MOMENT, table.unpack(steps)) }
      local gw = start{ timeouts = { idleMs = 200 } }
      local r = ask(gw)
      assert.equal(200, r.status)
      assert.is_false(r.complete)
      assert.equal(ROLE .. WORD, r.body:sub(1, #ROLE + #WORD))
      local message = r.body:match('\n\ndata: ({"error":[^\n]+})\n\n$')
      assert.is_truthy(message, r.body)
      local expected = steps[1].stall and "primary_timeout" or "primary_cut"
      assert.equal(expected, cjson.decode(message).error.code)
      assert.is_nil(r.body:find("[DONE]", 1, true))
      assert.equal(0, model:bytes())
      assert.is_truthy(gw:wait_log("outcome=cut"))
    end)
  end

  it("of several choices is cut while one of them is not done", function()
    local gw = start()
    local word, stop = WORD:gsub('"index":0', '"index":1'), STOP:gsub('"index":0', '"index":1')
    for what, complete in pairs{ [word .. STOP] = false, [word .. stop] = false, [STOP .. word] = false,
      [word .. stop .. WORD] = false, [word .. STOP .. word .. stop] = true, [word .. stop .. WORD .. STOP] = true,
      [word .. STOP .. "data: [DONE]\n\n"] = true } do
      central:set{ inference = stream({ ROLE, WORD }, A_MOMENT, chunk(what), LAST) }
      assert.equal(complete, ask(gw).complete, what)
    end
    assert.equal(0, model:bytes())
  end)

  it("never becomes a finished one by the break before the error", function()
    central:set{ inference = stream({ ROLE, WORD, "data: [DONE]" }, A_MOMENT, { reset = true }) }
    local r = ask(start())
    assert.same({ ROLE .. WORD .. "data: [DONE]", false }, { r.body, r.complete })
  end)

  it("that is cut says so in the words of the endpoint", function()
    local said = {
      ["/v1/messages"] = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,' ..
        '"delta":{"type":"text_delta","text":"word"}}\n\n',
      ["/v1/responses"] = 'event: response.output_text.delta\n' ..
        'data: {"type":"response.output_text.delta","delta":"word"}\n\n',
    }
    local errors = {
      ["/v1/messages"] = '{"type":"error","error":{', ["/v1/responses"] = '{"type":"error","code":"primary_cut"',
    }
    local gw = start()
    for path, text in pairs(said) do
      central:set{ routes = { { "POST " .. path, stream({ text }, A_MOMENT, { reset = true }) } } }
      local r = ask(gw, {}, path)
      assert.equal(text .. "event: error\ndata: " .. errors[path], r.body:sub(1, #text + 19 + #errors[path]))
      assert.is_false(r.complete)
    end
  end)

  it("of a local provider that is cut is no finished answer either", function()
    central:set{ inference = { status = 503 } }
    model:set{ steps = stream({ ROLE, WORD }, A_MOMENT, { reset = true }) }
    local r = ask(start())
    assert.same({ "true", false }, { r.headers["x-deputy-failover"], r.complete })
    assert.equal("local_cut", cjson.decode(r.body:match("data: (%b{})\n\n$")).error.code)
  end)

  it("that is wanted whole fails over after output too", function()
    central:set{ inference = stream({ ROLE, WORD, WORD }, A_MOMENT, { reset = true }) }
    local by_header = ask(start(), { ["x-deputy-streaming"] = "whole" })
    assert.same({ "true", true }, { by_header.headers["x-deputy-failover"], by_header.complete })
    assert.is_nil(by_header.body:find("word", 1, true))
    local gw = start{ gateway = { streaming = "whole" } }
    assert.equal("true", ask(gw).headers["x-deputy-failover"])
    assert.is_false(ask(gw, { ["x-deputy-streaming"] = "live" }).complete)
  end)
end)

describe("a caller that leaves", function()
  -- Begins a request, waits for what the peer has seen, leaves, and looks when the peer was told.
  local function leaves(gw, peer, seen, how, wait_for_bytes)
    local c = gw:open()
    c:send(request())
    peer:wait_until(function() return seen(peer) end)
    if wait_for_bytes then
      c:read_head()
      c:read_some()
    end
    local left = peers.now_us()
    c[how](c)
    local ended = peer:wait_until(function()
      local log = peer:connection_log()
      for i = #log, 1, -1 do
        if log[i].requests > 0 and log[i].ended_us then return log[i] end
      end
    end)
    assert.is_truthy(ended, "the upstream was not told")
    assert.is_true(ended.ended_us - left < CANCEL_MS * 1000, ("after %d us"):format(ended.ended_us - left))
    assert.is_truthy(gw:wait_log("outcome=cancelled"))
    if how == "half_close" then c:close() end
  end

  local function posted(peer) return peer:count("POST") > 0 end
  local function probed(peer) return peer:count("HEAD") > 0 end

  for _, how in ipairs{ "close", "half_close", "reset" } do
    it("by " .. how .. " stops the primary", function()
      central:set{ inference = { { stall = true } } }
      leaves(start(), central, posted, how)
    end)
  end

  it("stops the probe", function()
    central:set{ inference = { status = 503 }, probe = { { stall = true } } }
    leaves(start(), central, probed, "close")
    assert.equal(0, model:bytes())
  end)

  it("stops the local provider", function()
    central:set{ inference = { status = 503 } }
    model:set{ steps = { { stall = true } } }
    leaves(start(), model, posted, "close")
  end)

  it("stops an idle stream", function()
    central:set{ inference = stream({ ROLE, WORD }, { stall = true }) }
    leaves(start(), central, posted, "half_close", true)
  end)

  it("stops a stream that it did not read", function()
    central:set{ inference = stream({ ROLE, WORD }, WITHOUT_END) }
    local gw = start()
    local c = gw:open()
    c:send(request())
    c:read_head()
    uv.sleep(300)
    local left = peers.now_us()
    c:reset()
    local ended = central:wait_until(function()
      local log = central:connection_log()
      return log[#log].ended_us
    end)
    assert.is_true(ended - left < CANCEL_MS * 1000, ("after %d us"):format(ended - left))
  end)
end)

describe("slow readers", function()
  it("hold back the upstream, not our memory", function()
    central:set{ inference = stream({ ROLE, WORD }, WITHOUT_END) }
    local gw = start(nil, { ASAN_OPTIONS = "quarantine_size_mb=4" }) -- else 256 MiB of what was freed count
    local before = gw:rss()
    local open = {}
    for i = 1, 40 do
      open[i] = gw:open()
      open[i].sock:setoption("recv-buffer-size", 4096)
      open[i]:send(request())
    end
    uv.sleep(1500)
    local grown = gw:rss() - before
    for i = 1, #open do open[i]:close() end
    -- what libcurl and the queues may hold for each; a sanitizer keeps what was freed for a while
    local most = os.getenv("LUA_PRELOAD") and 2000 or 250
    assert.is_true(grown < #open * most, grown .. " KiB")
  end)

  it("get every byte in the end", function()
    local texts = { ROLE }
    for i = 1, 400 do texts[#texts + 1] = event('{"content":"' .. ("%05d"):format(i) .. ("y"):rep(20000) .. '"}') end
    texts[#texts + 1] = STOP
    central:set{ inference = stream(texts, LAST) }
    local gw = start()
    local c = gw:open()
    c.sock:setoption("recv-buffer-size", 65536)
    c:send(request())
    uv.sleep(300)
    local r = c:read_reply()
    assert.is_true(r.complete)
    assert.equal(table.concat(texts), r.body)
    c:close()
  end)

  it("get a big plain reply too", function()
    local body = '{"x":"' .. ("z"):rep(8000000) .. '"}'
    central:set{ inference = { body = body } }
    local gw = start()
    local c = gw:open()
    c:send(client.request{ path = "/v1/chat/completions", json = { model = "claude" } })
    uv.sleep(300)
    local r = c:read_reply()
    assert.is_true(r.complete and r.body == body)
    c:close()
  end)
end)

describe("ending", function()
  it("cuts streams that outlast the drain, and says so", function()
    central:set{ inference = stream({ ROLE, WORD }, { stall = true }) }
    local gw = start{ gateway = { drainMs = 150 } }
    local c = gw:open()
    c:send(request())
    c:read_head()
    gw:signal("sigterm")
    local parts = {}
    for some in function() return c:read_some() end do parts[#parts + 1] = some end
    assert.is_false(c.complete)
    assert.is_truthy(table.concat(parts):find('data: {"error":', 1, true))
    c:close()
    assert.equal(0, gw:wait())
  end)
end)
