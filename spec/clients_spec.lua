-- Clients as people have them, from npm, before a real deputy serve. Each is driven by spec/clients/<name>.mjs through
-- every case, plain and streaming; the model's name says what happens to the request.
local cjson = require "cjson"
local gateway = require "spec.support.gateway"
local npm = require "spec.support.npm"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local TOKEN = "tok-caller-very-secret"
-- Of a stream without end, what the central has sent and the caller's socket has not taken: the buffers of two sockets,
-- 4 MiB of them the sender's, and some. Not what the caller took: an SDK may read ahead of its reader.
local ON_THE_WAY_BYTES = 16 * 1024 * 1024
local GROWN_KIB = 6 * 1024 -- deputy itself, at its largest
local OUTAGE = {
  status = 503, headers = { ["Content-Type"] = "application/json" },
  body = '{"error":{"message":"no capacity","type":"overloaded_error","code":"busy"}}',
}

-- Runs in the peers: answers chat, responses and messages in their own shapes; what goes wrong is in the model's name.
local UPSTREAM = [[
  local cjson = require "cjson"
  local CHUNK = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,' ..
    '"delta":%s,"finish_reason":%s}]}'
  local ITEM = '{"id":"i","type":"message","role":"assistant","status":"completed","content":[' ..
    '{"type":"output_text","text":"%s","annotations":[]}]}'
  local RESPONSE = '{"id":"r","object":"response","created_at":1,"status":"completed","model":"m","output":[' ..
    ITEM .. '],"parallel_tool_calls":true,"tools":[],"metadata":{}}'
  local MESSAGE = '{"id":"m","type":"message","role":"assistant","model":"m","content":%s,"stop_reason":%s,' ..
    '"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}'

  local function named(list)
    for i, data in ipairs(list) do list[i] = "event: " .. data:match('"type":"([^"]+)"') .. "\ndata: " .. data end
    return list
  end

  -- path -> the plain reply; the events before, of, and after the text.
  local shapes = {
    chat = function(a, b)
      return ('{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":' ..
        '{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,' ..
        '"completion_tokens":1,"total_tokens":2}}'):format(a .. b),
        { CHUNK:format('{"role":"assistant","content":""}', "null"),
          CHUNK:format('{"content":"' .. a .. '"}', "null") },
        { CHUNK:format('{"content":"' .. b .. '"}', "null"), CHUNK:format("{}", '"stop"') }, true
    end,
    ["/v1/responses"] = function(a, b)
      local function delta(text)
        return '{"type":"response.output_text.delta","item_id":"i","output_index":0,"content_index":0,"delta":"' ..
          text .. '","sequence_number":2}'
      end
      return RESPONSE:format(a .. b),
        named{ '{"type":"response.created","sequence_number":0,"response":' .. RESPONSE:format("") .. "}",
          delta(a) },
        named{ delta(b),
          '{"type":"response.completed","sequence_number":4,"response":' .. RESPONSE:format(a .. b) .. "}" }
    end,
    ["/v1/messages"] = function(a, b)
      local function delta(text)
        return '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"' .. text .. '"}}'
      end
      return MESSAGE:format('[{"type":"text","text":"' .. a .. b .. '"}]', '"end_turn"'),
        named{ '{"type":"message_start","message":' .. MESSAGE:format("[]", "null") .. "}",
          '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}', delta(a) },
        named{ delta(b), '{"type":"content_block_stop","index":0}', '{"type":"message_delta","delta":' ..
          '{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":1}}', '{"type":"message_stop"}' }
    end,
  }

  local function sse(events, done)
    local text = {}
    for i, event in ipairs(events) do text[i] = (event:find("^event:") and "" or "data: ") .. event .. "\n\n" end
    text = table.concat(text) .. (done and "data: [DONE]\n\n" or "")
    return { send = ("%x\r\n%s\r\n"):format(#text, text) }
  end

  return function(request, state)
    if request.method ~= "POST" then return nil end
    local body = cjson.decode(request.body)
    local model = body.model
    if state.down[model] then return state.outage end
    local goes = model == "gone" or model == state.stalls
    local shape = shapes[request.path] or shapes.chat
    local plain, first, rest, done = shape(state.words[1], state.words[2])
    if not body.stream then
      if goes then return { { stall = true } } end
      if model == "early" then return { { cut = 20, how = "reset" }, { status = 200, body = plain } } end
      local reply = { status = 200, headers = { ["Content-Type"] = "application/json" }, body = plain }
      return model == "cut" and { { cut = 120, how = "reset" }, reply } or reply
    end
    local head = { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" }
    if model == "cut" then return { head, sse(first), { wait_ms = 100 }, { reset = true } } end
    if model == "early" then return { head, { send = "b\r\n: a comment\r\n" }, { reset = true } } end
    if goes then return { head, sse(first), { stall = true } } end
    if model == "stalled" then
      local _, _, long = shape("", ("x"):rep(8000))
      return { head, sse(first), { repeat_send = sse({ long[1] }).send } }
    end
    return { head, sse(first), { wait_ms = 20 }, sse(rest, done), { send = "0\r\n\r\n" } }
  end
]]

local central, model, gw

local function start()
  local standing = { "up", "over", "closed", "early", "cut", "gone", "stalled" }
  local llms = { left = {} }
  for _, name in ipairs(standing) do llms[name] = {} end
  llms.closed.probe = { status = 403 }
  central = peers.central{
    llms = llms, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } }, script = UPSTREAM,
    words = { "from the ", "central" }, outage = OUTAGE, down = { over = true, closed = true, left = true },
  }
  -- it knows one model, which goes silent for whoever is to leave it
  model = peers.openai{ script = UPSTREAM, words = { "from the ", "local model" }, down = {}, stalls = "silent" }
  gw = gateway.start{
    central = { url = central.url },
    providers = {
      { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = standing },
      { name = "silent", type = "openai", url = model.url .. "/v1", model = "silent", failoverFor = "left" },
    },
    policy = { settings = { retries = 0, breaker = false } },
  }
end

local function drive(client)
  local run = npm.run(client, "http://" .. gw.address .. "/v1", TOKEN)
  assert.equal("", run.stderr)
  assert.equal(0, run.status)
  local results = {}
  for _, result in ipairs(run.lines) do
    results[result.case .. " " .. result.mode] = result
  end
  return results
end

-- In KiB.
local function peak_rss() return tonumber(tmp.read("/proc/" .. gw.pid .. "/status"):match("VmHWM:%s*(%d+)")) end

local function delivered_bytes()
  return tonumber(gw:ask{ method = "GET", path = "/metrics" }.body:match("\ndeputy_http_sent_bytes_total (%d+)"))
end

local function says(text, word) assert.is_truthy(text:find(word, 1, true), text) end

-- The connections that carried this model's requests to a peer, in its own log.
local function connections_of(peer, name)
  local wanted, found = {}, {}
  for _, request in ipairs(peer:requests("POST")) do
    if cjson.decode(request.body).model == name then wanted[request.conn] = true end
  end
  for _, connection in ipairs(peer:connection_log()) do
    if wanted[connection.id] then found[#found + 1] = connection end
  end
  return found
end

-- Waits until that many have been left by deputy.
local function check_left(peer, name, count)
  local endings
  local all = peer:wait_until(function()
    local left = 0
    endings = {}
    for i, connection in ipairs(connections_of(peer, name)) do
      endings[i] = connection.ended or "open"
      if endings[i] == "client" or endings[i] == "client_reset" then left = left + 1 end
    end
    return left == count and #endings == count
  end)
  assert.is_truthy(all, name .. ": the upstream was not told: " .. table.concat(endings, " "))
end

local clients = { "openai", "responses", "anthropic", "ai", "langchain", "eventsource" }

describe("a client from npm:", function()
  after_each(function()
    gateway.stop_all()
    peers.stop_all()
  end)

  for _, client in ipairs(clients) do
    it(client, function()
      if npm.skip(pending) then return end
      start()
      local before = peak_rss()
      local results = drive(client)
      local grown = peak_rss() - before

      for _, mode in ipairs{ "plain", "stream" } do
        local function of(name)
          local result = results[name .. " " .. mode]
          assert.is_truthy(result, name .. " " .. mode)
          return result
        end
        local up, over, closed, early = of "up", of "over", of "closed", of "early"
        assert.same({ mode, "from the central", cjson.null }, { mode, up.text, up.error })
        assert.same({ mode, "from the local model", cjson.null }, { mode, over.text, over.error })
        assert.same({ mode, "from the local model", cjson.null }, { mode, early.text, early.error })
        assert.same({ mode, "", 503 }, { mode, closed.text, closed.error ~= cjson.null and closed.error.status })
        says(closed.error.message, "no capacity")
        assert.not_equal(cjson.null, of("gone").error)
        assert.not_equal(cjson.null, of("left").error)
      end

      -- half of a plain reply reaches nobody: the stand-in answers; half a stream is raised
      assert.same({ "from the local model", cjson.null }, { results["cut plain"].text, results["cut plain"].error })
      local cut = results["cut stream"]
      assert.equal("from the ", cut.text)
      assert.not_equal(cjson.null, cut.error)
      says(cut.error.message, "broke off")
      assert.equal("from the ", results["gone stream"].text)
      assert.equal("from the ", results["left stream"].text)

      -- a reader that stalls has had something, and held back the rest
      says(results["stalled stream"].text, "from the ")
      local sent, delivered = connections_of(central, "stalled")[1].bytes_out, delivered_bytes()
      assert.is_true(sent > 8000 and sent - delivered < ON_THE_WAY_BYTES, sent .. " - " .. delivered)
      assert.is_true(os.getenv("LUA_PRELOAD") ~= nil or grown < GROWN_KIB, grown)

      check_left(central, "gone", 2)
      check_left(central, "stalled", 1)
      check_left(model, "silent", 2)
      -- over twice, early twice, the plain one that was cut, and the two that were left
      assert.equal(7, model:count("POST"))
      assert.is_false(model:saw(TOKEN))
    end)
  end

  it("no, curl", function()
    start()
    local function curl(name, stream)
      return shell.run{ "curl", "-sS", "-N", "--fail-with-body", "-H", "Authorization: Bearer " .. TOKEN, "--json",
        cjson.encode{ model = name, stream = stream, messages = { { role = "user", content = "hi" } } },
        "http://" .. gw.address .. "/v1/chat/completions" }
    end
    for name, text in pairs{ up = "central", over = "local model" } do
      local plain, stream = curl(name, false), curl(name, true)
      assert.same({ name, 0, "from the " .. text },
        { name, plain.status, cjson.decode(plain.stdout).choices[1].message.content })
      assert.same({ name, 0 }, { name, stream.status })
      says(stream.stdout, '"' .. text .. '"')
      says(stream.stdout, "data: [DONE]\n\n")
    end
    for _, stream in ipairs{ false, true } do
      local closed = curl("closed", stream)
      assert.same({ 22, OUTAGE.body }, { closed.status, closed.stdout })
    end
    local cut = curl("cut", true)
    assert.is_truthy(cut.status == 18 or cut.status == 56, cut.status) -- a partial file, or a reset while it reads
    says(cut.stdout, '"from the "')
    says(cut.stdout, 'data: {"error":')
    assert.is_nil(cut.stdout:find("[DONE]", 1, true))
  end)
end)
