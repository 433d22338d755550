-- aimock from npm, a fault server that nobody here wrote, as the central and as the local provider of deputy serve. The
-- model's name says what it does: spec/clients/aimock.mjs.
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local npm = require "spec.support.npm"

local TOKEN = "tok-caller-very-secret"
local CENTRAL_TEXT = "central said this, a few words at a time, and then it was done."
local LOCAL_TEXT = "local said this, a few words at a time, and then it was done."
local FAULTS = { "malformed", "dropped", "disconnects", "cut-early", "cut-late", "cut-in-time", "slow", "limited",
  "overloaded", "refuses" }

local central, model, gw

local function start(changes)
  central = npm.start("aimock", "central", "--central")
  model = npm.start("aimock", "local")
  local names, providers = { "up", "drip", "reasoning", "tool", "physics" }, {}
  for _, name in ipairs(FAULTS) do
    names[#names + 1] = name
    names[#names + 1] = name .. "-closed"
  end
  providers[1] = { name = "local", type = "openai", url = model.first.url .. "/v1", model = "up", failoverFor = names }
  for _, name in ipairs{ "up", "drip", "tool", table.unpack(FAULTS) } do
    providers[#providers + 1] = {
      name = name, type = "openai", url = model.first.url .. "/v1", model = name, failoverFor = "local-" .. name,
    }
  end
  local config = {
    central = { url = central.first.url, inference = { ["chat/completions"] = "/v1/chat/completions" } },
    providers = providers,
    policy = { settings = { retries = 0, breaker = false } },
    timeouts = { firstByteMs = 800, firstTokenMs = 800, idleMs = 800 },
  }
  for section, fields in pairs(changes or {}) do
    for name, value in pairs(fields) do config[section][name] = value end
  end
  gw = gateway.start(config)
end

-- What a caller makes of a reply: its text, and whether it is a whole answer.
local function ask(name, stream, more, path)
  local json = { model = name, stream = stream, messages = { { role = "user", content = "hi" } } }
  for key, value in pairs(more or {}) do json[key] = value end
  local c = gw:open()
  c:send(client.request{ path = path or "/v1/chat/completions", json = json,
    headers = { Authorization = "Bearer " .. TOKEN } })
  local reply, times = assert(c:read_head()), {}
  local parts = {}
  for some in function() return c:read_some() end do
    parts[#parts + 1] = some
    times[#times + 1] = uv.hrtime() / 1e6
  end
  c:close()
  reply.body, reply.complete, reply.times = table.concat(parts), c.complete, times
  reply.via = reply.headers["x-deputy-via"]
  reply.events = {}
  for data in reply.body:gmatch("data: ([^\n]+)\n\n") do reply.events[#reply.events + 1] = data end
  reply.finished = reply.complete and (not stream or reply.events[#reply.events] == "[DONE]")
  return reply
end

local function text_of(reply, stream)
  if not stream then return cjson.decode(reply.body).choices[1].message.content end
  local text = {}
  for _, data in ipairs(reply.events) do
    local choice = data ~= "[DONE]" and (cjson.decode(data).choices or {})[1]
    local content = choice and choice.delta.content
    if type(content) == "string" then text[#text + 1] = content end
  end
  return table.concat(text)
end

local function served(driver, name)
  local found = {}
  for _, entry in ipairs(driver:ask("journal").journal) do
    if entry.model == name then found[#found + 1] = entry end
  end
  return found
end

local MODES = { { "plain", false }, { "stream", true } }

describe("aimock as the central", function()
  if npm.missing() then
    it("is installed", function() npm.skip(pending) end)
    return
  end
  setup(function() start() end)
  teardown(function()
    gateway.stop_all()
    npm.stop_all()
  end)

  for _, mode in ipairs(MODES) do
    local word, stream = mode[1], mode[2]

    it("answers, " .. word, function()
      for _, name in ipairs{ "up", "drip", "reasoning", "physics" } do
        local reply = ask(name, stream)
        assert.same({ name, 200, CENTRAL_TEXT, true }, { name, reply.status, text_of(reply, stream), reply.finished })
        assert.is_nil(reply.via)
      end
    end)

    for _, name in ipairs{ "malformed", "dropped", "disconnects", "limited", "overloaded", "slow",
      stream and "cut-early" or nil } do
      it("that is " .. name .. " is stood in for, " .. word, function()
        local reply = ask(name, stream)
        assert.same({ 200, "local", LOCAL_TEXT, true }, { reply.status, reply.via, text_of(reply, stream),
          reply.finished }, reply.body)
      end)

      it("that is " .. name .. " is not stood in for once the caller may not see it, " .. word, function()
        model:ask("clear")
        local reply = ask(name .. "-closed", stream)
        assert.is_true(reply.status >= 400 and reply.complete, reply.body)
        assert.same({ "false", 0 }, { reply.headers["x-deputy-failover"], #model:ask("journal").journal })
      end)
    end

    it("that refuses the request has the last word, " .. word, function()
      local reply = ask("refuses", stream)
      assert.same({ 400, "context_length_exceeded" }, { reply.status, cjson.decode(reply.body).error.code })
    end)
  end

  it("drips: each piece passes when it comes", function()
    local reply = ask("drip", true)
    assert.is_true(reply.times[#reply.times] - reply.times[1] > 300)
    assert.is_true(#reply.times > 8, #reply.times)
  end)

  for _, name in ipairs{ "cut-late", "cut-in-time" } do
    it("that is " .. name .. " leaves no stream that looks finished", function()
      local reply = ask(name, true)
      assert.equal(200, reply.status)
      assert.is_false(reply.complete)
      local text = text_of(reply, true)
      assert.is_true(#text > 0 and CENTRAL_TEXT:sub(1, #text) == text, text)
      assert.equal("primary_cut", cjson.decode(reply.events[#reply.events]).error.code)
    end)

    it("that is " .. name .. " is stood in for when the answer is wanted whole", function()
      local c = gw:open()
      c:send(client.request{ path = "/v1/chat/completions", headers = { ["x-deputy-streaming"] = "whole",
        Authorization = "Bearer " .. TOKEN }, json = { model = name, stream = true, messages = {
        { role = "user", content = "hi" } } } })
      local reply = assert(c:read_reply())
      c:close()
      assert.same({ 200, "local", true }, { reply.status, reply.headers["x-deputy-via"], reply.complete })
      assert.is_nil(reply.body:find("central", 1, true))
    end)
  end

  it("calls tools, whose arguments pass as they are", function()
    local plain = cjson.decode(ask("tool", false).body).choices[1].message.tool_calls[1]["function"]
    assert.same({ "get_weather", '{"city":"Bern","days":[]}' }, { plain.name, plain.arguments })
    local reply, arguments = ask("tool", true), {}
    assert.is_true(reply.finished)
    for _, data in ipairs(reply.events) do
      local choice = data ~= "[DONE]" and cjson.decode(data).choices[1]
      for _, call in ipairs(choice and choice.delta.tool_calls or {}) do
        arguments[#arguments + 1] = call["function"].arguments
      end
    end
    assert.equal('{"city":"Bern","days":[]}', table.concat(arguments))
  end)

  it("speaks Anthropic's messages and OpenAI's responses too", function()
    local function events(name, path, more) return ask(name, true, more, path) end
    local up = events("up", "/v1/messages", { max_tokens = 64 })
    assert.is_truthy(up.complete and up.body:find("message_stop", 1, true), up.body)
    local over = events("dropped", "/v1/messages", { max_tokens = 64 })
    assert.same({ "local", true }, { over.via, over.complete })
    local cut = events("cut-late", "/v1/messages", { max_tokens = 64 })
    assert.is_false(cut.complete)
    assert.is_truthy(cut.body:find('event: error\ndata: {"type":"error"', 1, true), cut.body)
    for name, word in pairs{ up = "central", dropped = "local" } do
      local reply = events(name, "/v1/responses", { input = "hi" })
      assert.is_truthy(reply.complete and reply.body:find("response.completed", 1, true), reply.body)
      assert.is_truthy(reply.body:find(word, 1, true), reply.body)
    end
    cut = events("cut-later", "/v1/responses", { input = "hi" }) -- five events come before its first word
    assert.is_false(cut.complete)
    assert.is_truthy(cut.body:find('"code":"primary_cut"', 1, true), cut.body)
  end)

  it("makes embeddings, whose numbers pass as they are", function()
    local reply = ask("embedder", nil, { input = "words" }, "/v1/embeddings")
    assert.equal(200, reply.status)
    assert.is_truthy(reply.body:find("%[0%.25,%-0%.5,1e%-7%]"), reply.body)
  end)

  it("is told of the caller, the local provider is not", function()
    ask("dropped", false)
    local told, kept = served(central, "dropped"), served(model, "up")
    assert.equal("[REDACTED]", told[#told].authorization) -- in its journal; it was there
    for _, entry in ipairs(kept) do assert.equal(cjson.null, entry.authorization) end
  end)
end)

describe("aimock as the local provider", function()
  if npm.missing() then return end
  setup(function() start() end)
  teardown(function()
    gateway.stop_all()
    npm.stop_all()
  end)

  for _, mode in ipairs(MODES) do
    local word, stream = mode[1], mode[2]

    it("stands in, " .. word, function()
      for _, name in ipairs{ "up", "drip" } do
        local reply = ask("local-" .. name, stream)
        assert.same({ 200, name, LOCAL_TEXT, true },
          { reply.status, reply.via, text_of(reply, stream), reply.finished })
        assert.is_true(name == "slow" or #served(model, name) > 0) -- it forgets callers that left
      end
    end)

    for _, name in ipairs{ "malformed", "dropped", "disconnects", "limited", "overloaded", "slow", "refuses",
      stream and "cut-early" or nil } do
      it("that is " .. name .. " leaves the central's own error, " .. word, function()
        local reply = ask("local-" .. name, stream)
        assert.same({ 503, "no capacity" }, { reply.status, cjson.decode(reply.body).error.message }, reply.body)
        assert.is_true(name == "slow" or #served(model, name) > 0) -- it forgets callers that left
      end)
    end
  end

  for _, name in ipairs{ "cut-late", "cut-in-time" } do
    it("that is " .. name .. " leaves no stream that looks finished", function()
      local reply = ask("local-" .. name, true)
      assert.same({ 200, name, false }, { reply.status, reply.via, reply.complete })
      assert.equal("local_cut", cjson.decode(reply.events[#reply.events]).error.code)
    end)
  end
end)

describe("aimock that limits the rate", function()
  if npm.missing() then return end
  after_each(function()
    gateway.stop_all()
    npm.stop_all()
  end)

  it("is asked once more when it says, then stood in for", function()
    start{ policy = { settings = { retries = 1, breaker = false } } }
    local began = uv.hrtime()
    local reply = ask("limited", false)
    assert.same({ 200, "local", 2 }, { reply.status, reply.via, #served(central, "limited") })
    assert.is_true((uv.hrtime() - began) / 1e9 >= 1) -- its Retry-After
  end)
end)
