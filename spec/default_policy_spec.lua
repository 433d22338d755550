-- The default policy against the whole table of what counts as a primary failure worth a failover: first in a simulated
-- run, where every step and every wait can be seen, then once more behind the real engine.
local OLD_NOW, OLD_RANDOM = rawget(_G, "now"), rawget(_G, "random")

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local ROUTER = read("lua/router.lua")

-- ---- a simulated world ----------------------------------------------------------------------------------------------

local World = {}
World.__index = World

local function new_world(settings)
  local world = setmetatable({ time = 1000, chance = 0.5, steps = {} }, World)
  local env = setmetatable({
    settings = settings or {},
    now = function() return world.time end,
    random = function() return world.chance end,
  }, { __index = _G })
  env.require = function(name)
    local text = read("lua/" .. name:gsub("%.", "/") .. ".lua")
    return assert(load(text, "@" .. name, "t", env))()
  end
  world.policy = assert(load(ROUTER, "@lua/router.lua", "t", env))()
  return world
end

-- given: primary (array of failures, or "ok"; the last one repeats), stand_in (false: none), probe (a status, or a
-- kind), stand_in_answers (default true), left_s. Returns what route returns, and the steps taken in words.
function World:run(given)
  local steps, calls = {}, 0
  local deadline = self.time + (given.left_s or 600)
  local run = { llm = given.llm or "claude", attempt = 0, deadline = deadline }
  function run.primary()
    calls = calls + 1
    run.attempt = calls
    steps[#steps + 1] = "primary"
    local outcome = given.primary[math.min(calls, #given.primary)]
    if outcome == "ok" then return "the primary's reply" end
    return nil, outcome
  end
  function run.failover()
    if given.stand_in ~= false then return { name = "local" } end
  end
  function run.probe(_, options)
    assert(options == nil or options.llm == nil or options.llm == run.llm)
    steps[#steps + 1] = "probe"
    local probe = given.probe or 204
    if type(probe) == "string" then return { kind = probe } end
    return { kind = "ok", status = probe, content_type = given.content_type }
  end
  function run.complete(_, provider)
    steps[#steps + 1] = provider.name
    if given.stand_in_answers == false then return nil, { kind = "status", status = 500 } end
    return "the local reply"
  end
  function run.sleep(_, ms)
    steps[#steps + 1] = ("wait %g"):format(ms)
    self.time = self.time + ms / 1000
    assert(self.time < deadline, "waited past the deadline")
    return true
  end
  local reply, failure = self.policy.route(run)
  return reply, failure, table.concat(steps, ", ")
end

local function failure(kind, fields)
  local f = { kind = kind, message = kind }
  for name, value in pairs(fields or {}) do f[name] = value end
  return f
end

local function status(number, after) return failure("status", { status = number, retry_after = after }) end

-- ---- the table ------------------------------------------------------------------------------------------------------

-- name, failure, retried (how long it waits before that), fails over, and with failoverOn = "any"
local ROWS = {
  { "a refused connection", failure("connect"), 150, true },
  { "no such host", failure("dns"), 150, true },
  { "a TLS failure", failure("tls"), 150, true },
  { "429 without Retry-After", status(429), nil, true },
  { "429, Retry-After: 2", status(429, 2), 2015, true },
  { "429, Retry-After: 5", status(429, 5), 5015, true },
  { "429, Retry-After: 6", status(429, 6), nil, true },
  { "408", status(408), 150, true },
  { "425", status(425), 150, true },
  { "500", status(500), 150, true },
  { "502", status(502), 150, true },
  { "503", status(503), 150, true },
  { "503, Retry-After: 60", status(503, 60), nil, true },
  { "504", status(504), 150, true },
  { "529", status(529), 150, true },
  { "501", status(501), nil, true },
  { "505", status(505), nil, true },
  { "599", status(599), nil, true },
  { "a timeout while it connects", failure("timeout", { code = "connect" }), nil, true },
  { "a timeout before the first byte", failure("timeout", { code = "first_byte" }), nil, true },
  { "a slow first token", failure("timeout", { code = "first_token" }), nil, true },
  { "a stalled stream", failure("timeout", { code = "idle" }), nil, true },
  { "a 2xx that is not what was asked", failure("malformed", { status = 200 }), nil, true },
  { "an in-band error", failure("in_band", { status = 200 }), nil, true },
  { "an in-band error that says overloaded", failure("in_band", { status = 529 }), nil, true },
  { "an in-band rate limit", failure("in_band", { status = 429, retry_after = 1 }), nil, true },
  { "a cut stream", failure("cut"), nil, true },
  { "an error without kind or status", failure("error"), nil, true },
  { "400", status(400), nil, false }, { "402", status(402), nil, false }, { "404", status(404), nil, false },
  { "409", status(409), nil, false }, { "413", status(413), nil, false }, { "422", status(422), nil, false },
  { "301", status(301), nil, false }, { "304", status(304), nil, false },
  { "401", status(401), nil, false }, { "403", status(403), nil, false },
  { "a context that is too long", failure("status", { status = 400, code = "context_length_exceeded" }), nil, false },
  { "an in-band context length", failure("in_band", { status = 200, code = "context_length_exceeded" }), nil, false },
  { "an in-band content policy", failure("in_band", { status = 400, code = "content_policy_violation" }), nil, false },
  { "an in-band 404", failure("in_band", { status = 404 }), nil, false },
  { "a reply over our limit", failure("limit", { status = 200 }), nil, false },
  { "a request that cannot be expressed", failure("refused"), nil, false },
  { "a caller who went away", failure("cancelled"), nil, false, false },
  { "the deadline", failure("deadline"), nil, false, false },
}

describe("the default policy, in a simulated run:", function()
  for _, row in ipairs(ROWS) do
    local name, cause, wait, fails_over, with_any = table.unpack(row, 1, 5)
    if with_any == nil then with_any = true end
    local again = wait and (", wait %g, primary"):format(wait) or ""

    it(name, function()
      local reply, got, steps = new_world():run{ primary = { cause } }
      if fails_over then
        assert.equal("the local reply", reply)
        assert.equal("primary" .. again .. ", probe, local", steps)
      else
        assert.is_nil(reply)
        assert.equal(cause, got)
        assert.equal("primary", steps)
      end
    end)

    it(name .. ", and nobody stands in", function()
      local reply, got, steps = new_world():run{ primary = { cause }, stand_in = false }
      assert.is_nil(reply)
      assert.equal(cause, got)
      assert.equal("primary" .. again, steps)
    end)

    it(name .. ', with failoverOn = "any" and without retries', function()
      local reply, _, steps = new_world{ failoverOn = "any", retries = 0 }:run{ primary = { cause } }
      assert.equal(with_any and "the local reply" or nil, reply)
      assert.equal(with_any and "primary, probe, local" or "primary", steps)
    end)
  end

  it("a retry that helps", function()
    local reply, _, steps = new_world():run{ primary = { status(503), "ok" } }
    assert.equal("the primary's reply", reply)
    assert.equal("primary, wait 150, primary", steps)
  end)

  it("a retry that meets a verdict", function()
    local last = status(401)
    local reply, got, steps = new_world():run{ primary = { status(503), last } }
    assert.is_nil(reply)
    assert.equal(last, got)
    assert.equal("primary, wait 150, primary", steps)
  end)

  it("as many retries as it is told, each later than the last", function()
    local _, _, steps = new_world{ retries = 3 }:run{ primary = { status(503) } }
    assert.equal("primary, wait 150, primary, wait 300, primary, wait 600, primary, probe, local", steps)
  end)

  it("never a retry past the run's deadline", function()
    for _, left in ipairs{ 0.0001, 0.1, 0.15 } do
      local _, _, steps = new_world():run{ primary = { status(503) }, left_s = left }
      assert.equal("primary, probe, local", steps)
    end
    local _, _, steps = new_world():run{ primary = { status(429, 4) }, left_s = 4 }
    assert.equal("primary, probe, local", steps)
  end)

  for _, probe in ipairs{ 100, 101, 199, 300, 302, 304, 400, 401, 403, 404, 429, 500, 503, 599,
    "timeout", "dns", "connect", "tls", "protocol", "limit", "no_token" } do
    it("no stand-in after a probe that says " .. probe, function()
      local cause = status(501)
      local reply, got, steps = new_world():run{ primary = { cause }, probe = probe }
      assert.is_nil(reply)
      assert.equal(cause, got)
      assert.equal("primary, probe", steps)
    end)
  end

  it("no stand-in after a page that says 200", function()
    local reply = new_world():run{ primary = { status(501) }, probe = 200, content_type = "text/html" }
    assert.is_nil(reply)
  end)

  it("the primary's error when the stand-in fails too", function()
    local cause = status(501)
    local reply, got = new_world():run{ primary = { cause }, stand_in_answers = false }
    assert.is_nil(reply)
    assert.equal(cause, got)
  end)
end)

describe("the default policy's breaker:", function()
  local world

  local function down(n, given)
    local steps
    for _ = 1, n do
      given = given or {}
      given.primary = given.primary or { failure("timeout", { code = "first_byte" }) }
      local _, _, taken = world:run(given)
      steps = taken
    end
    return steps
  end

  before_each(function() world = new_world() end)

  it("after five failures in a row the stand-in goes first, and each request is still asked about", function()
    assert.equal("primary, probe, local", down(5))
    assert.equal("probe, local", down(1))
    assert.equal("probe, local", down(1))
  end)

  it("while it is open and no stand-in may answer, the primary is called after all and has the last word", function()
    down(5)
    local cause = status(503)
    for _, given in ipairs{ { probe = 403 }, { probe = "timeout" }, { stand_in_answers = false } } do
      given.primary = { cause, cause }
      local reply, got, steps = world:run(given)
      assert.is_nil(reply)
      assert.equal(cause, got)
      assert.matches("primary, wait 150, primary$", steps)
    end
    local reply, _, steps = world:run{ primary = { "ok" }, stand_in = false }
    assert.equal("the primary's reply", reply)
    assert.equal("primary", steps)
  end)

  it("half open, one goes to the primary; when that works it is closed", function()
    down(5)
    world.time = world.time + 10
    local reply, _, steps = world:run{ primary = { "ok" } }
    assert.equal("the primary's reply", reply)
    assert.equal("primary", steps)
    assert.equal("primary, probe, local", down(4))
    assert.equal("primary, probe, local", down(1))
    assert.equal("probe, local", down(1))
  end)

  it("half open, a trial that fails opens it again", function()
    down(5)
    world.time = world.time + 10
    assert.equal("primary, probe, local", down(1))
    assert.equal("probe, local", down(1))
    world.time = world.time + 9.9
    assert.equal("probe, local", down(1))
    world.time = world.time + 0.2
    assert.equal("primary, probe, local", down(1))
  end)

  it("an LLM of its own for each", function()
    down(5)
    assert.equal("primary, probe, local", down(1, { llm = "opus" }))
    assert.equal("probe, local", down(1))
  end)

  it("a verdict is a sign of life, and so is a reply", function()
    for _, cause in ipairs{ status(401), status(404), "ok" } do
      world = new_world()
      down(4)
      world:run{ primary = { cause } }
      assert.equal("primary, probe, local", down(4))
    end
  end)

  it("a verdict is a sign of life too where everything fails over", function()
    world = new_world{ failoverOn = "any" }
    for _, cause in ipairs{ status(400), status(401), failure("limit", { status = 200 }) } do
      assert.equal("primary, probe, local", down(12, { primary = { cause } }))
    end
  end)

  it("a caller who leaves says nothing about the primary", function()
    down(4)
    world:run{ primary = { failure("cancelled") } }
    down(1)
    assert.equal("probe, local", down(1))
  end)

  it("settings: after how many, for how long, or not at all", function()
    world = new_world{ breaker = { failures = 1, openMs = 500 } }
    down(1)
    assert.equal("probe, local", down(1))
    world.time = world.time + 0.5
    assert.equal("primary, probe, local", down(1))
    world = new_world{ breaker = false }
    assert.equal("primary, probe, local", down(50))
  end)

  it("settings that are not understood are refused in words", function()
    local ok, message = pcall(new_world, { retries = 9, failOverOn = "any" })
    assert.is_false(ok)
    assert.equal('policy.settings.failOverOn: unknown; did you mean "failoverOn"?; '
      .. "policy.settings.retries: expected a whole number from 0 to 3, got 9", message)
  end)
end)

describe("the default policy is short", function()
  it("and stays under 120 lines", function()
    local _, lines = ROUTER:gsub("\n", "")
    assert.is_true(lines < 120)
  end)

  it("and says what deputy.judge says", function()
    local judge, policy = require "deputy.judge", new_world().policy
    for _, row in ipairs(ROWS) do
      assert.equal(not not policy.should_failover(row[2]), not not judge.should_failover(row[2]), row[1])
    end
    for _, kind in ipairs{ "ok", "timeout", "dns", "connect", "tls", "protocol", "limit", "no_token" } do
      for number = 100, 599 do
        for _, content_type in ipairs{ "text/html", "application/xhtml+xml", "application/json" } do
          local probe = { kind = kind, status = kind == "ok" and number or nil, content_type = content_type }
          local verdict = judge.verdict(probe)
          assert.equal(verdict, policy.verdict(probe))
          if verdict == "allowed" then assert.is_true(kind == "ok" and number >= 200 and number <= 299) end
        end
      end
    end
  end)
end)

-- ---- behind the real engine -----------------------------------------------------------------------------------------

describe("the default policy, behind the engine:", function()
  local deputy = require "deputy"
  local now_s = require("luv").hrtime

  local function run(given)
    local registry = deputy.registry()
    registry:register{ name = "local", complete = function() return "the local reply" end }
    if given.stand_in ~= false then registry:register_failover("claude", "local") end
    local router = deputy.router(registry, {
      bearer_token = "token", policy = "lua/router.lua", settings = given.settings,
      probe = function()
        if type(given.probe) == "string" then return nil, given.probe end
        return given.probe or 204
      end,
    })
    local calls, began = 0, now_s()
    local results = {}
    for i = 1, given.runs or 1 do
      local ok, result = pcall(router.run, router, "claude", function()
        calls = calls + 1
        local outcome = given.primary[math.min(calls, #given.primary)]
        if outcome == "ok" then return "the primary's reply" end
        error(outcome, 0)
      end)
      results[i] = { ok = ok, value = ok and result.result or result, failover = ok and result.failover or false }
    end
    return results[#results], calls, (now_s() - began) / 1e9
  end

  for _, row in ipairs(ROWS) do
    local name, cause, wait, fails_over = table.unpack(row, 1, 4)
    if not wait or wait < 1000 then
      it(name, function()
        local result, calls, took = run{ primary = { cause } }
        assert.equal(wait and 2 or 1, calls)
        assert.equal(fails_over, result.failover)
        assert.equal(fails_over and "the local reply" or cause, result.value)
        if wait then assert.is_true(took >= 0.099) end
      end)
    end
  end

  it("Retry-After in whole seconds is waited for", function()
    local result, calls, took = run{ primary = { status(429, 1), "ok" } }
    assert.equal("the primary's reply", result.value)
    assert.equal(2, calls)
    assert.is_true(took >= 1 and took < 1.8)
  end)

  it("nobody stands in for a caller who may not see the LLM", function()
    for _, probe in ipairs{ 401, 403, 404, 302, 500, "timeout", "connect" } do
      local cause = status(501)
      local result = run{ primary = { cause }, probe = probe }
      assert.is_false(result.ok)
      assert.equal(cause, result.value)
    end
  end)

  it("the breaker opens", function()
    local settings = { retries = 0, breaker = { failures = 3, openMs = 60000 } }
    local result, calls = run{ primary = { status(503) }, runs = 10, settings = settings }
    assert.equal("the local reply", result.value)
    assert.equal(3, calls)
    result, calls = run{ primary = { status(503) }, runs = 10, settings = settings, probe = 403 }
    assert.is_false(result.ok)
    assert.equal(10, calls)
  end)

  it("settings that are not understood are refused when it is loaded", function()
    local ok, message = pcall(run, { primary = { "ok" }, settings = { retries = 9 } })
    assert.is_false(ok)
    assert.matches("policy.settings.retries: expected a whole number from 0 to 3, got 9", message)
  end)
end)

teardown(function()
  assert.equal(OLD_NOW, rawget(_G, "now"))
  assert.equal(OLD_RANDOM, rawget(_G, "random"))
end)
