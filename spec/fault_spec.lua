-- An upstream that resets, closes or goes silent after every number of bytes of its reply: as the primary, the probe,
-- the local provider. Whatever happens there, nothing is allowed that was not, no half of an answer looks like a whole
-- one, and each request is over by its deadline.
--   FAULT_STRIDE   every n-th offset only (13); 1 in make soak
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local starved = require "spec.support.starved"

local STRIDE = tonumber(os.getenv("FAULT_STRIDE")) or 13
local TOKEN = "tok-house-very-secret"
local AT_ONCE = 12
local TIMEOUT_MS = 200
local SLACK_MS = os.getenv("LUA_PRELOAD") and 1000 or 100
local OUTAGE = { status = 503, headers = { ["Content-Type"] = "application/json" }, body = '{"error":"no capacity"}' }
local HOWS = { "reset", "close", "stall" }

-- ---- replies, as raw bytes

local function length(body, kind)
  return ("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"):format(kind, #body, body)
end

local function chunked(parts, kind)
  local text = { ("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"):format(kind) }
  for _, part in ipairs(parts) do text[#text + 1] = ("%x\r\n%s\r\n"):format(#part, part) end
  return table.concat(text) .. "0\r\n\r\n"
end

local function to_the_end(body, kind)
  return ("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n%s"):format(kind, body)
end

local function delta(text, finish)
  return ('data: {"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}\n\n'):format(text, finish or "null")
end

local PLAIN = '{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant",' ..
  '"content":"All of it."},"finish_reason":"stop"}]}'
local EVENTS = { delta '{"role":"assistant","content":""}', delta '{"content":"All "}', delta '{"content":"of it."}',
  delta("{}", '"stop"'), "data: [DONE]\n\n" }
local STREAM = table.concat(EVENTS)
local JSON, SSE = "application/json", "text/event-stream"

local forms = {
  { name = "a plain reply by length", raw = length(PLAIN, JSON), whole = PLAIN },
  { name = "a plain reply in chunks", raw = chunked({ PLAIN:sub(1, 60), PLAIN:sub(61) }, JSON), whole = PLAIN },
  { name = "a plain reply up to the end", raw = to_the_end(PLAIN, JSON), whole = PLAIN },
  { name = "a stream in chunks", raw = chunked(EVENTS, SSE), whole = STREAM, stream = true },
  { name = "a stream up to the end", raw = to_the_end(STREAM, SSE), whole = STREAM, stream = true },
}

-- ---- peers that are told for each request, by its "user" or its LLM, what to do

local CENTRAL = [[
  return function(request, state)
    local name = request.path:match("/llms/([^/]+)")
    local fault = state.faults[name]
    if not fault then return nil end
    local leg = request.method == "HEAD" and "probe" or "primary"
    if fault.leg == leg then return { { cut = fault.n, how = fault.how }, { send = state.raw } } end
    return leg == "probe" and { status = 204 } or state.outage
  end
]]
local MODEL = [[
  return function(request, state)
    local fault = state.faults[require("cjson").decode(request.body).user]
    if fault and fault.leg == "local" then return { { cut = fault.n, how = fault.how }, { send = state.raw } } end
  end
]]

local central, model, gw

local function start()
  local names = {}
  for i = 1, AT_ONCE do names[i] = "f" .. i end
  central = peers.central{ script = CENTRAL, outage = OUTAGE, faults = {} }
  model = peers.openai{ script = MODEL, faults = {}, reply = "Stood in." }
  gw = gateway.start{
    central = { url = central.url, bearerToken = TOKEN },
    providers = { { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = names } },
    policy = { settings = { retries = 0, breaker = false } },
    timeouts = { firstByteMs = TIMEOUT_MS, firstTokenMs = TIMEOUT_MS, idleMs = TIMEOUT_MS, probeMs = TIMEOUT_MS },
  }
end

-- Sends one request for each fault, all at once; each reply gets .ms, the time until it was over.
local function ask_all(faults, raw, stream)
  local named = {}
  for i, fault in ipairs(faults) do named["f" .. i] = fault end
  central:set{ faults = named, raw = raw }
  model:set{ faults = named, raw = raw }
  local open, replies = {}, {}
  local began = peers.now_us()
  for i in ipairs(faults) do
    open[i] = gw:open()
    open[i]:send(client.request{ path = "/v1/chat/completions", json = {
      model = "f" .. i, user = "f" .. i, stream = stream or nil, messages = { { role = "user", content = "x" } },
    } })
  end
  for i, c in ipairs(open) do
    replies[i] = assert(c:read_reply())
    replies[i].ms = (peers.now_us() - began) / 1000
    c:close()
  end
  return replies
end

-- Calls check(fault, reply, starved_ms) for every offset. What each request may take is its deadline, the slack, and
-- the time for which the machine gave the processes on its way no CPU.
local function sweep(leg, how, raw, stream, check)
  local limit = (how == "stall" and TIMEOUT_MS or 0) + SLACK_MS
  local batch, offsets = {}, {}
  for n = 0, #raw - 1, STRIDE do offsets[#offsets + 1] = n end
  if offsets[#offsets] ~= #raw - 1 then offsets[#offsets + 1] = #raw - 1 end
  for i, n in ipairs(offsets) do
    batch[#batch + 1] = { leg = leg, how = how, n = n }
    if #batch == AT_ONCE or i == #offsets then
      local since = starved.clock(gw.pid, central.pid, model.pid)
      local replies = ask_all(batch, raw, stream)
      local starved_ms = since()
      for k, reply in ipairs(replies) do
        check(batch[k], reply, starved_ms)
        assert.is_true(reply.ms <= limit + starved_ms,
          ("%s at %d: %.0f ms, %.0f of them without a CPU"):format(how, batch[k].n, reply.ms, starved_ms))
      end
      batch = {}
    end
  end
end

local function context(fault, reply)
  return ("%s after %d bytes: %d, %s, %s"):format(fault.how, fault.n, reply.status,
    reply.complete and "complete" or "incomplete", reply.body)
end

local function stood_in(reply)
  return reply.headers["x-deputy-via"] == "local" and reply.body:find("Stood", 1, true)
    and reply.body:find("in.", 1, true)
end

-- The whole answer, whatever is missing of its framing; of a stream, [DONE] may be missing too.
local function is_whole(form, fault, reply)
  if not form.stream then return reply.body == form.whole end
  return form.whole:sub(1, #reply.body) == reply.body and reply.body:find('"stop"', 1, true) ~= nil
    and form.raw:sub(1, fault.n):find('"stop"}]}\n\n', 1, true) ~= nil
end

local function check_cut_stream(form, fault, reply, said)
  local prefix = reply.body:match("^(.-)\n*data: {\"error\":") or reply.body
  assert.equal(form.whole:sub(1, #prefix), prefix, said)
  assert.is_true(#prefix <= fault.n, said)
end

describe("faults at every byte of", function()
  setup(start)

  teardown(function()
    gateway.stop_all()
    peers.stop_all()
  end)

  for _, how in ipairs(HOWS) do
    for _, form in ipairs(forms) do
      it("the primary, " .. form.name .. ": " .. how, function()
        sweep("primary", how, form.raw, form.stream, function(fault, reply, starved_ms)
          local said = context(fault, reply)
          -- A probe without a CPU for most of its time runs into its timeout, which allows nothing.
          if (reply.status == 502 or reply.status == 504) and starved_ms > TIMEOUT_MS / 2 then return end
          assert.equal(200, reply.status, said)
          if not reply.complete then
            assert.is_truthy(form.stream, said)
            check_cut_stream(form, fault, reply, said)
          elseif not stood_in(reply) then
            assert.is_true(is_whole(form, fault, reply), said)
          end
        end)
      end)

      it("the local provider, " .. form.name .. ": " .. how, function()
        sweep("local", how, form.raw, form.stream, function(fault, reply)
          local said = context(fault, reply)
          if reply.status == 503 then
            assert.same({ OUTAGE.body, true }, { reply.body, reply.complete }, said)
          elseif not reply.complete then
            assert.is_truthy(form.stream, said)
            check_cut_stream(form, fault, reply, said)
          else
            assert.is_true(is_whole(form, fault, reply), said)
          end
        end)
      end)
    end

    for name, raw in pairs{
      ["204"] = "HTTP/1.1 204 No Content\r\nDate: now\r\nConnection: close\r\n\r\n",
      ["200"] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n",
      ["103 and 204"] = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    } do
      it("the probe, " .. name .. ": " .. how, function()
        local before = model:bytes()
        sweep("probe", how, raw, false, function(fault, reply)
          assert.same({ 503, OUTAGE.body, true, "false" },
            { reply.status, reply.body, reply.complete, reply.headers["x-deputy-failover"] }, context(fault, reply))
        end)
        assert.equal(before, model:bytes())
      end)
    end
  end

  it("nothing: the same replies unharmed are answers", function()
    for _, form in ipairs(forms) do
      for _, leg in ipairs{ "primary", "local" } do
        local reply = ask_all({ { leg = leg, how = "close", n = #form.raw } }, form.raw, form.stream)[1]
        assert.same({ form.name, 200, form.whole, true, leg == "local" and "local" or nil },
          { form.name, reply.status, reply.body, reply.complete, reply.headers["x-deputy-via"] })
      end
    end
    local raw = "HTTP/1.1 204 No Content\r\n\r\n"
    assert.is_truthy(stood_in(ask_all({ { leg = "probe", how = "close", n = #raw } }, raw)[1]))
    assert.is_nil(gw:log():find(TOKEN, 1, true))
    assert.equal("table", type(cjson.decode(PLAIN)))
  end)
end)
