-- Streams and errors byte for byte, over real sockets: what commits a run to a reply, what may still fail over, and
-- what the caller gets when it is too late for that.
local deputy = require "deputy"
local peers = require "spec.support.peers"

local TOKEN = "tok-alice"
local BODY = [[{ "stream" : true, "model":"claude",  "messages":[{"role":"user","content":"h\u00e4 \ud83d\ude00"}],]]
  .. [["n":12345678901234567890,"x":[] }]]

local central, stand_in

setup(function()
  central = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
  stand_in = peers.openai{ models = { "qwen3" } }
end)

before_each(function()
  central:clear()
  central:set{ inference = false }
  stand_in:clear()
  stand_in:set{ steps = false }
end)

teardown(peers.stop_all)

local function make(more)
  local registry = deputy.registry()
  registry:register(deputy.openai{ name = "local", url = stand_in.url .. "/v1", model = "qwen3" })
  registry:register_failover("claude", "local")
  local options = {
    central_url = central.url, bearer_token = TOKEN, policy = "lua/router.lua", verify = "off",
    settings = { retries = 0, breaker = false },
    timeouts = { first_byte_ms = 120, first_token_ms = 120, idle_ms = 120, total_ms = 5000 },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return deputy.router(registry, options)
end

-- What the primary sends -> reply, or nil, failure and the failed reply.
local function ask(steps, request, options)
  central:set{ inference = steps }
  local router <close> = make(options)
  request = request or {}
  request.llm, request.body = "claude", request.body or BODY
  return router:complete(request)
end

local function delta(json, finish)
  return ('{"id":"c","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'):format(json, finish or "null")
end

local ROLE, HELLO = delta('{"role":"assistant","content":""}'), delta('{"content":"hello"}')
local STOP = delta("{}", '"stop"')

-- The bytes of events, as the peers write them.
local function text(events, done)
  local parts = {}
  for i, event in ipairs(events) do
    if not event:find("^%a*:") then event = "data: " .. event end
    parts[i] = event .. "\n\n"
  end
  return table.concat(parts) .. (done and "data: [DONE]\n\n" or "")
end

local function from_local(reply)
  return reply ~= nil and reply.failover and reply.via == "local"
end

describe("a stream", function()
  it("comes through byte for byte", function()
    local odd = delta('{"content":"\xc3\xa4\\n\\u0000"}')
    local events = { ": a comment", ROLE, HELLO, odd, "event: x\ndata: 1\ndata: 2", STOP }
    local reply = ask{ sse = events, done = true, every_ms = 2 }
    assert.equal(text(events, true), reply.body)
    assert.equal(200, reply.status)
    assert.equal("text/event-stream", reply.headers["content-type"])
    assert.is_false(reply.failover)
    local request = central:requests("POST")[1]
    assert.equal(BODY, request.body)
    assert.equal("Bearer " .. TOKEN, request.headers.authorization)
    assert.equal("identity", request.headers["accept-encoding"])
  end)

  it("comes from the stand-in byte for byte, and only the model's name is replaced in what it is asked", function()
    local reply = ask{ status = 503 }
    assert.is_true(from_local(reply))
    assert.truthy(reply.body:find('"content":"Hello"', 1, true))
    assert.truthy(reply.body:find("data: %[DONE%]\n\n$"))
    local request = stand_in:requests("POST")[1]
    assert.equal((BODY:gsub('"model":"claude"', '"model":"qwen3"')), request.body)
    assert.is_nil(request.headers.authorization)
    assert.is_false(stand_in:saw(TOKEN))
  end)

  it("may come in single bytes", function()
    local events = text({ ROLE, HELLO, STOP }, true)
    local reply = ask{ { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" },
      { drip = events, every_ms = 0 }, { close = true } }
    assert.equal(events, reply.body)
  end)

  it("may be large", function()
    local one = delta(('{"content":"%s"}'):format(("x"):rep(10000)))
    local events = {}
    for i = 1, 300 do events[i] = one end
    events[301] = STOP
    local reply = ask({ sse = events, done = true })
    assert.equal(#text(events, true), #reply.body)
    assert.equal(text(events, true), reply.body)
  end)

  for what, steps in pairs{
    ["without [DONE] when the model said that it was done"] = { sse = { HELLO, STOP } },
    ["that ends with the connection"] = { status = 200, framing = "close", sse = { HELLO, STOP } },
    ["whose connection stays open after [DONE]"] = { { sse = { HELLO, STOP }, done = true, unfinished = true },
      { stall = true } },
    ["whose connection is reset after [DONE]"] = { { sse = { HELLO, STOP }, done = true, unfinished = true },
      { reset = true } },
    ["with usage after the stop"] = { sse = { HELLO, STOP, '{"choices":[],"usage":{"total_tokens":5}}' }, done = true },
    ["without a stop, with [DONE]"] = { sse = { HELLO }, done = true },
    ["that stops without output"] = { sse = { ROLE, STOP }, done = true },
  } do
    it(what .. " ends well", function()
      local began = peers.now_us()
      local reply, failure = ask(steps)
      assert.is_table(reply, failure and failure.message)
      assert.is_false(reply.failover)
      assert.is_true(peers.now_us() - began < 400000)
    end)
  end

  -- Long enough for what came before to be passed on: until then even output may be taken back.
  local SENT_ON = { wait_ms = 40 }

  -- What comes before the first output may still be taken back, after it never.
  local NOTHING = {
    ["a role"] = ROLE, ["an empty delta"] = delta("{}"), ["empty content"] = delta('{"content":""}'),
    ["content that is null"] = delta('{"content":null}'), ["a comment"] = ": keep-alive",
    ["a ping"] = "event: ping\ndata: {}",
    ["no tool call"] = delta('{"tool_calls":[]}'), ["empty reasoning"] = delta('{"reasoning_content":""}'),
    ["an empty choice list"] = '{"choices":[]}', ["an empty text"] = '{"choices":[{"text":""}]}',
    ["something unknown"] = '{"type":"response.created","response":{"status":"in_progress"}}',
    ["a block that starts"] = 'event: content_block_start\ndata: '
      .. '{"type":"content_block_start","content_block":{"type":"text","text":""}}',
  }
  local OUTPUT = {
    ["content"] = HELLO, ["a space"] = delta('{"content":" "}'), ["reasoning"] = delta('{"reasoning_content":"hm"}'),
    ["reasoning by its other name"] = delta('{"reasoning":"hm"}'), ["a refusal"] = delta('{"refusal":"no"}'),
    ["a tool call"] = delta('{"tool_calls":[{"index":0,"id":"c1","function":{"name":"f","arguments":""}}]}'),
    ["audio"] = delta('{"audio":{"data":"AAAA"}}'),
    ["the second choice"] = '{"choices":[{"index":1,"delta":{"content":"x"}}]}',
    ["text"] = '{"choices":[{"index":0,"text":"x"}]}',
    ["a response's text"] = 'event: response.output_text.delta\ndata: '
      .. '{"type":"response.output_text.delta","delta":"x"}',
    ["a message's text"] = 'event: content_block_delta\ndata: '
      .. '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}',
  }
  local BROKEN = 'data: {"error":{"message":"broken"}}\n\n'
  local ENDS = {
    ["is cut"] = { { close = true }, "cut" },
    ["is reset"] = { { reset = true }, "cut" },
    ["stalls"] = { { stall = true }, "timeout" },
    ["brings an error"] = { ("%x\r\n%s\r\n"):format(#BROKEN, BROKEN), "in_band" },
  }

  for what, event in pairs(NOTHING) do
    it("that is cut after " .. what .. " fails over", function()
      local reply, failure = ask{ { sse = { event }, unfinished = true }, { close = true } }
      assert.is_true(from_local(reply), failure and failure.message)
      assert.is_nil(reply.body:find(event, 1, true))
    end)
  end

  for what, event in pairs(OUTPUT) do
    it("that is cut after " .. what .. " is cut for the caller too", function()
      local reply, failure, failed = ask{ { sse = { ROLE, event }, unfinished = true }, SENT_ON, { close = true } }
      assert.is_nil(reply)
      assert.equal("cut", failure.kind)
      assert.is_nil(failed)
      assert.equal(0, stand_in:count("POST"))
      assert.equal(0, central:count("HEAD"))
    end)

    it("held back whole fails over even after " .. what, function()
      local reply, failure = ask({ { sse = { ROLE, event }, unfinished = true }, { close = true } }, { whole = true })
      assert.is_true(from_local(reply), failure and failure.message)
      assert.is_nil(reply.body:find(event, 1, true))
    end)
  end

  for what, case in pairs(ENDS) do
    local last = type(case[1]) == "string" and { send = case[1] } or case[1]
    it("that " .. what .. " before output fails over", function()
      local reply, failure = ask{ { sse = { ROLE }, unfinished = true }, last }
      assert.is_true(from_local(reply), failure and failure.message)
      assert.equal(case[2], reply.trace[1].kind)
    end)

    it("that " .. what .. " after output is cut", function()
      local reply, failure = ask{ { sse = { HELLO }, unfinished = true }, SENT_ON, last }
      assert.is_nil(reply)
      assert.equal(case[2], failure.kind)
      assert.equal(0, stand_in:count("POST"))
    end)

    it("that " .. what .. " in the stand-in, before output, leaves the primary's error", function()
      stand_in:set{ steps = { { sse = { ROLE }, unfinished = true }, last } }
      local reply, failure, failed = ask{ status = 503, body = "the primary's" }
      assert.is_nil(reply)
      assert.equal(503, failure.status)
      assert.equal("the primary's", failed.body)
      assert.is_false(failed.failover)
    end)

    it("that " .. what .. " in the stand-in, after output, is cut", function()
      stand_in:set{ steps = { { sse = { HELLO }, unfinished = true }, SENT_ON, last } }
      local reply, failure = ask{ status = 503, body = "the primary's" }
      assert.is_nil(reply)
      assert.equal(case[2], failure.kind)
    end)
  end

  it("with more before its first output than may be held is over a limit", function()
    local reply, failure = ask({ { sse = { ROLE }, unfinished = true }, { repeat_send = "7\r\n: wait\n\r\n" } }, nil,
      { limits = { max_hold_bytes = 4096 } })
    assert.is_nil(reply)
    assert.equal("limit", failure.kind)
    assert.equal(0, stand_in:count("POST"))
  end)

  it("held back whole has the limit of a whole reply", function()
    local reply, failure = ask({ { sse = { HELLO }, unfinished = true }, { repeat_send = "7\r\n: wait\n\r\n" } },
      { whole = true }, { limits = { max_reply_bytes = 8192 } })
    assert.is_nil(reply)
    assert.equal("limit", failure.kind)
    assert.equal(0, stand_in:count("POST"))
  end)

  it("comments keep it from being idle, not from being late with its first token", function()
    local beat = { ": 1", ": 2", ": 3", ": 4", ": 5", ": 6", ": 7", ": 8" }
    local events = { HELLO, table.unpack(beat) }
    events[#events + 1] = STOP
    local reply = ask{ sse = events, done = true, every_ms = 40 }
    assert.is_false(reply.failover)
    assert.equal(text(events, true), reply.body)
    reply = ask{ sse = { table.unpack(beat) }, every_ms = 40 }
    assert.is_true(from_local(reply))
    assert.equal("timeout", reply.trace[1].kind)
  end)

  it("is what the request's body says, unless the request says otherwise", function()
    local plain = '{"model":"claude","messages":[]}'
    local sse = { sse = { HELLO, STOP }, done = true }
    local json = { status = 200, json = { choices = { 1 } } }
    assert.is_false(ask(sse).failover)
    assert.is_false(ask(json, { body = plain }).failover)
    assert.is_false(ask(sse, { body = plain, stream = true }).failover)
    assert.is_false(ask(json, { stream = false }).failover)
    assert.is_true(ask(json).failover) -- it was a stream that was asked for
    for _, body in ipairs{ '{"model":"claude","stream":false}', '{"model":"claude","stream":"true"}',
      '{"model":"claude","options":{"stream":true}}', '{"model":"claude","x":"\\"stream\\":true"}' } do
      assert.is_false(ask(json, { body = body }).failover)
    end
  end)
end)

describe("an error", function()
  local ALL = {}
  for i = 0, 255 do ALL[#ALL + 1] = string.char(i) end
  ALL = table.concat(ALL)

  for what, step in pairs{
    ["of every byte there is"] = { status = 400, headers = { ["Content-Type"] = "application/x" }, body = ALL },
    ["of no byte"] = { status = 404, body = "" },
    ["in chunks"] = { status = 422, chunked = { "a", "b\0", "\r\n\r\n" } },
    ["until the connection ends"] = { status = 400, framing = "close", body = "\0end" },
    ["that says it is compressed"] =
      { status = 400, headers = { ["Content-Encoding"] = "gzip" }, body = "\x1f\x8bnot" },
    ["that is a page"] = { status = 403, headers = { ["Content-Type"] = "text/html" }, body = "<h1>no</h1>" },
    ["that is JSON with odd numbers"] = { status = 400, body = '{"n":12345678901234567890,"a":[],"b":1e400}' },
    ["that looks like a stream"] = { status = 401, sse = { HELLO, "[DONE]" } },
    ["of a megabyte"] = { status = 400, body = ("0123456789abcdef"):rep(65536) },
    ["with an empty reason"] = { { send = "HTTP/1.1 409 \r\nContent-Length: 2\r\n\r\nno" } },
    ["that redirects"] = { status = 307, headers = { Location = "http://127.0.0.1:1/" }, body = "there" },
  } do
    it(what .. " reaches the caller as it came", function()
      local expected = step.body or "no"
      if step.sse then expected = text(step.sse) elseif step.chunked then expected = table.concat(step.chunked) end
      for _, stream in ipairs{ true, false } do
        local reply, failure, failed = ask(step, { stream = stream })
        assert.is_nil(reply)
        assert.equal("status", failure.kind)
        assert.equal(step.status or 409, failure.status)
        assert.equal(step.status or 409, failed.status)
        assert.is_true(expected == failed.body)
        assert.is_false(failed.failover)
      end
      assert.equal(0, stand_in:connections())
      assert.equal(0, central:count("HEAD"))
    end)
  end

  it("keeps its headers, doubled ones too, and a stand-in's failure changes nothing", function()
    stand_in:set{ steps = { status = 500, headers = { ["X-Stand-In"] = "yes" }, body = "the stand-in's" } }
    local _, failure, failed = ask{ status = 503, body = "the primary's", headers = {
      { "X-Request-Id", "r1" }, { "Set-Cookie", "a=1" }, { "Set-Cookie", "b=2" }, { "Retry-After", "7" },
      { "Content-Type", "text/plain; charset=latin1" }, { "X-Bytes", "\xe4\xff" } } }
    assert.equal("the primary's", failed.body)
    assert.equal("r1", failed.headers["x-request-id"])
    assert.equal("a=1, b=2", failed.headers["set-cookie"])
    assert.equal("text/plain; charset=latin1", failed.headers["content-type"])
    assert.equal("\xe4\xff", failed.headers["x-bytes"])
    assert.is_nil(failed.headers["x-stand-in"])
    assert.equal(7, failure.retry_after)
    assert.equal(1, stand_in:count("POST"))
  end)

  it("whose body is cut is not passed off as whole", function()
    local reply, failure, failed = ask{ { status = 400, headers = { ["Content-Length"] = "50" }, body = "half" },
      { close = true } }
    assert.is_nil(reply)
    assert.equal(400, failure.status)
    assert.is_nil(failed)
  end)

  it("of the central whose body is cut still says whether somebody may stand in", function()
    local reply = ask{ { status = 503, headers = { ["Content-Length"] = "50" }, body = "half" }, { close = true } }
    assert.is_true(from_local(reply))
    reply = ask{ { status = 503, headers = { ["Content-Length"] = "50" }, body = "half" }, { stall = true } }
    assert.is_true(from_local(reply))
  end)

  it("inside a 200 reaches the caller as it came when nobody may stand in", function()
    central:revoke(TOKEN, "*", "view")
    local body = '{"error":{"message":"overloaded","code":"x"},"n":[]}'
    local json = { ["Content-Type"] = "application/json" }
    local reply, failure, failed = ask({ status = 200, headers = json, body = body }, { stream = false })
    central:grant(TOKEN, "*", "view")
    assert.is_nil(reply)
    assert.equal("in_band", failure.kind)
    assert.equal("x", failure.code)
    assert.equal(200, failed.status)
    assert.equal(body, failed.body)
  end)

  for what, step in pairs{
    ["that is empty"] = { status = 200, body = "" }, ["that is a page"] = { status = 200, body = "<p>",
      headers = { ["Content-Type"] = "text/html" } }, ["that is no JSON"] = { status = 200, body = "hello" },
  } do
    it("a 200 " .. what .. " is no reply when nobody may stand in", function()
      central:revoke(TOKEN, "*", "view")
      local reply, failure, failed = ask(step, { stream = false })
      central:grant(TOKEN, "*", "view")
      assert.is_nil(reply)
      assert.equal("malformed", failure.kind)
      assert.is_nil(failed)
    end)
  end
end)

describe("a plain reply", function()
  it("comes through byte for byte, framed in any way", function()
    local body = '{"choices":[],"n":12345678901234567890,"s":"\\u0000\xc3\xa4"} \n'
    for _, step in ipairs{
      { status = 200, body = body }, { status = 200, chunked = { body:sub(1, 5), body:sub(6) } },
      { status = 201, framing = "close", body = body }, { status = 299, body = body },
      { { status = 200, body = body:sub(1, 9), headers = { ["Content-Length"] = #body } }, { wait_ms = 20 },
        { send = body:sub(10) } },
    } do
      local reply, failure = ask(step, { stream = false })
      assert.is_table(reply, failure and failure.message)
      assert.equal(body, reply.body)
      assert.is_false(reply.failover)
    end
  end)

  it("of an endpoint that we do not know may be anything", function()
    central:set{ routes = { { "POST /v1/audio/speech", { status = 200, body = "RIFF\0\xff" } } } }
    local router <close> = make()
    local reply = router:complete{ llm = "claude", endpoint = "audio/speech", body = "{}", stream = false }
    central:set{ routes = false }
    assert.equal("RIFF\0\xff", reply.body)
  end)

  it("of other endpoints comes from the stand-in too", function()
    for endpoint, word in pairs{ completions = "text_completion", embeddings = "embedding" } do
      central:set{ inference = { status = 503 } }
      local router <close> = make()
      local reply = router:complete{ llm = "claude", endpoint = endpoint, body = '{"model":"claude"}' }
      assert.is_true(from_local(reply))
      assert.truthy(reply.body:find(word, 1, true))
    end
  end)
end)
