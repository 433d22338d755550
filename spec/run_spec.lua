-- A run over real sockets: one deadline over all of it, a timeout for each wait, and a trace that says what happened.
-- (Cancelling, a thousand at once and the C callbacks are in spec/c/engine_test.c and spec/c/gate_socket_test.c.)
local deputy = require "deputy"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local TOKEN = "tok-alice"
local BODY = [[{"model":"claude","messages":[{"role":"user","content":"hi"}]}]]
local STREAM = [[{"model":"claude","stream":true,"messages":[{"role":"user","content":"hi"}]}]]
local HELLO = '{"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}'
local DOWN = { status = 503, body = "down" }
local STALL = { { stall = true } }
local HALF = { { status = 200, headers = { ["Content-Length"] = 50 }, body = "{" }, { stall = true } }
local BEATS = { repeat_send = "5\r\n: w\n\n\r\n", every_ms = 10 } -- a comment in a chunk

local central, stand_in

setup(function()
  central = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
  stand_in = peers.openai{ models = { "qwen3" } }
end)

before_each(function()
  central:clear()
  stand_in:clear()
  central:set{ inference = false, probe = false, connect = false }
  stand_in:set{ steps = false, connect = false }
end)

teardown(peers.stop_all)

local function make(timeouts, more, url)
  local registry = deputy.registry()
  registry:register(deputy.openai{ name = "local", url = (url or stand_in.url) .. "/v1", model = "qwen3" })
  registry:register_failover("claude", "local")
  local options = {
    central_url = central.url, bearer_token = TOKEN, policy = "lua/router.lua", verify = "off",
    settings = { retries = 0, breaker = false }, timeouts = timeouts,
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return deputy.router(registry, options)
end

local function legs(reply)
  local words = {}
  for i, leg in ipairs(reply.trace) do
    words[i] = leg.leg .. ":" .. leg.kind .. (leg.status and ":" .. leg.status or "")
  end
  return table.concat(words, " ")
end

local function timed(fn)
  local began = peers.now_us()
  local function done(...) return (peers.now_us() - began) // 1000, ... end
  return done(fn())
end

describe("the deadline", function()
  -- Which leg stalls, and what is known when the time is up.
  for _, case in ipairs{
    { "the primary", { inference = STALL }, {}, "deadline" },
    { "the primary's body",
      { inference = HALF }, {}, "deadline" },
    { "the probe", { inference = DOWN, probe = STALL }, {}, "status" },
    { "the probe's head", { inference = DOWN, probe = { { send = "HTTP/1.1 200 OK\r\n" }, STALL[1] } }, {}, "status" },
    { "the stand-in", { inference = DOWN }, { steps = STALL }, "status" },
    { "the stand-in's body", { inference = DOWN }, { steps = HALF }, "status" },
  } do
    it("passes while " .. case[1] .. " stalls", function()
      central:set(case[2])
      stand_in:set(case[3])
      local router <close> = make{ total_ms = 120 }
      local ms, reply, failure, failed = timed(function()
        return router:complete{ llm = "claude", body = BODY }
      end)
      assert.is_nil(reply)
      assert.equal(case[4], failure.kind)
      assert.is_true(ms >= 115 and ms < 600, ms)
      if case[4] == "status" then
        assert.equal("down", failed.body)
        assert.equal("cancelled", failed.trace[#failed.trace].kind)
      else
        assert.is_nil(failed)
      end
    end)
  end

  it("passes while a stream flows: it is cut", function()
    central:set{ inference = { { sse = { HELLO }, unfinished = true }, BEATS } }
    local router <close> = make{ total_ms = 120, idle_ms = 1000 }
    local ms, reply, failure = timed(function() return router:complete{ llm = "claude", body = STREAM } end)
    assert.is_nil(reply)
    assert.equal("deadline", failure.kind)
    assert.is_true(ms >= 115 and ms < 600, ms)
    assert.is_true(central:wait_until(function() return central:connection_log()[1].ended ~= nil end))
  end)

  it("is one: what the legs take adds up", function()
    central:set{ inference = { { wait_ms = 60 }, DOWN }, probe = { { wait_ms = 60 }, { status = 204 } } }
    stand_in:set{ steps = { { wait_ms = 60 }, { status = 200, json = { choices = {} } } } }
    local slow <close> = make{ total_ms = 150 }
    local ms, reply = timed(function() return slow:complete{ llm = "claude", body = BODY } end)
    assert.is_nil(reply)
    assert.is_true(ms >= 145 and ms < 600, ms)
    local patient <close> = make{ total_ms = 3000 }
    ms, reply = timed(function() return patient:complete{ llm = "claude", body = BODY } end)
    assert.is_true(reply.failover)
    assert.is_true(ms >= 175)
  end)

  it("can be shortened by a request, never stretched", function()
    central:set{ inference = STALL }
    local router <close> = make{ total_ms = 200 }
    local ms = timed(function() return router:complete{ llm = "claude", body = BODY, total_ms = 60 } end)
    assert.is_true(ms >= 55 and ms < 180, ms)
    ms = timed(function() return router:complete{ llm = "claude", body = BODY, total_ms = 60000 } end)
    assert.is_true(ms >= 195 and ms < 700, ms)
  end)

  it("covers router:run and check_auth too", function()
    central:set{ probe = STALL }
    local router <close> = make{ total_ms = 80 }
    local ms, ok, raised = timed(function()
      return pcall(router.run, router, "claude", function() error("primary", 0) end, function() return 1 end)
    end)
    assert.is_false(ok)
    assert.equal("primary", raised)
    assert.is_true(ms >= 75 and ms < 500, ms)
    local verdict
    ms, verdict = timed(function() return router:check_auth("claude") end)
    assert.equal("unreachable", verdict)
    assert.is_true(ms >= 75 and ms < 500, ms)
  end)
end)

describe("a leg's own timeout", function()
  local function ask(timeouts, request, more, url)
    timeouts.total_ms = 3000
    local router <close> = make(timeouts, more, url)
    request.llm = "claude"
    return timed(function() return router:complete(request) end)
  end

  it("of connecting to the central", function()
    local nowhere = { central_url = peers.blackhole() }
    local ms, reply, failure = ask({ connect_ms = 60, probe_ms = 60 }, { body = BODY }, nowhere)
    assert.is_nil(reply)
    assert.same({ "timeout", "connect" }, { failure.kind, failure.code })
    assert.is_true(ms >= 110 and ms < 900, ms)
  end)

  it("of connecting to the stand-in", function()
    central:set{ inference = DOWN }
    local ms, reply, failure, failed = ask({ connect_ms = 60 }, { body = BODY }, nil, peers.blackhole())
    assert.is_nil(reply)
    assert.equal("status", failure.kind)
    assert.equal("primary:status:503 probe:ok:200 local:timeout", legs(failed))
    assert.is_true(ms >= 55 and ms < 600, ms)
  end)

  it("of the first byte", function()
    central:set{ inference = STALL }
    local ms, reply = ask({ first_byte_ms = 60, first_token_ms = 2000, idle_ms = 2000 }, { body = BODY })
    assert.equal("primary:timeout probe:ok:200 local:ok:200", legs(reply))
    assert.is_true(ms >= 55 and ms < 600, ms)
  end)

  it("of the first token, whatever else comes before it", function()
    central:set{ inference = {
      { sse = { '{"choices":[{"index":0,"delta":{"role":"assistant"}}]}' }, unfinished = true },
      BEATS } }
    local ms, reply = ask({ first_token_ms = 80, first_byte_ms = 2000, idle_ms = 2000 }, { body = STREAM })
    assert.equal("primary:timeout:200 probe:ok:200 local:ok:200", legs(reply))
    assert.is_true(ms >= 75 and ms < 600, ms)
  end)

  it("of silence in a plain reply", function()
    central:set{ inference = HALF }
    local ms, reply = ask({ idle_ms = 60, first_byte_ms = 2000 }, { body = BODY })
    assert.equal("primary:timeout:200 probe:ok:200 local:ok:200", legs(reply))
    assert.is_true(ms >= 55 and ms < 600, ms)
  end)

  it("of silence in a stream, after output", function()
    central:set{ inference = { { sse = { HELLO }, unfinished = true }, STALL[1] } }
    local ms, reply, failure = ask({ idle_ms = 60, first_token_ms = 2000 }, { body = STREAM })
    assert.is_nil(reply)
    assert.same({ "timeout", "idle" }, { failure.kind, failure.code })
    assert.is_true(ms >= 55 and ms < 600, ms)
  end)

  it("of the probe", function()
    central:set{ inference = DOWN, probe = STALL }
    local ms, reply, _, failed = ask({ probe_ms = 60, connect_ms = 2000 }, { body = BODY })
    assert.is_nil(reply)
    assert.equal("primary:status:503 probe:timeout", legs(failed))
    assert.is_true(ms >= 55 and ms < 600, ms)
  end)

  it("of the probe can be shortened by a script, never stretched", function()
    for timeout_ms, most in pairs{ [60] = 600, [5000] = 1100 } do
      central:set{ inference = DOWN, probe = STALL }
      local policy = tmp.write(tmp.dir(), "p.lua", ("local timeout_ms = %d %s"):format(timeout_ms, [[
        return { should_failover = print, verdict = print, route = function(run)
          local _, failure = run:primary()
          run:probe{ timeout_ms = timeout_ms }
          return nil, failure
        end }]]))
      local ms, reply, _, failed = ask({ probe_ms = 600 }, { body = BODY }, { policy = policy, verify = "off" })
      assert.is_nil(reply)
      assert.equal("primary:status:503 probe:timeout", legs(failed))
      assert.is_true(ms >= 55 and ms < most, ms)
    end
  end)

  it("that one takes is not taken from another", function()
    central:set{ inference = { { wait_ms = 70 }, DOWN } }
    stand_in:set{ steps = { { wait_ms = 70 }, { status = 200, json = { choices = {} } } } }
    local _, reply = ask({ first_byte_ms = 110 }, { body = BODY })
    assert.equal("primary:status:503 probe:ok:200 local:ok:200", legs(reply))
  end)
end)

describe("the trace", function()
  it("says what happened, in order, in microseconds that never run backwards", function()
    central:set{ inference = { { wait_ms = 20 }, DOWN }, probe = { { wait_ms = 20 }, { status = 204 } } }
    stand_in:set{ steps = { { wait_ms = 20 }, { status = 200, json = { choices = {} } } } }
    local router <close> = make{}
    local began = peers.now_us()
    local reply = router:complete{ llm = "claude", body = BODY }
    local took = peers.now_us() - began
    assert.equal("primary:status:503 probe:ok:204 local:ok:200", legs(reply))
    local last = 0
    for i, leg in ipairs(reply.trace) do
      assert.equal(1, leg.attempt)
      assert.is_true(leg.start_us >= last)
      assert.is_true(leg.end_us - leg.start_us >= 19000 and leg.end_us - leg.start_us < 500000)
      assert.equal(i == 3 and "local" or nil, leg.provider)
      assert.equal(i == 2 and "allowed" or nil, leg.verdict)
      last = leg.end_us
    end
    assert.is_true(last <= took)
  end)

  it("agrees with what the servers saw", function()
    central:set{ inference = DOWN }
    local router <close> = make{}
    local began = peers.now_us()
    local reply = router:complete{ llm = "claude", body = BODY }
    local seen = {
      central:requests("POST")[1].t_us, central:requests("HEAD")[1].t_us, stand_in:requests("POST")[1].t_us,
    }
    for i, leg in ipairs(reply.trace) do
      local at = seen[i] - began
      assert.is_true(at >= leg.start_us and at <= leg.end_us + 5000, i)
    end
  end)

  it("counts attempts", function()
    central:set{ inference = { each = { DOWN, { status = 200, json = { choices = {} } } } } }
    local router <close> = make({}, { settings = { retries = 1, breaker = false } })
    local reply = router:complete{ llm = "claude", body = BODY }
    assert.equal("primary:status:503 primary:ok:200", legs(reply))
    assert.equal(1, reply.trace[1].attempt)
    assert.equal(2, reply.trace[2].attempt)
  end)

  it("has no more than 64 entries, and the run goes on all the same", function()
    local lines = 0
    local path = tmp.write(nil, "chatty.lua", [[
      return { should_failover = print, verdict = print, route = function(run)
        local reply, failure = run:primary()
        for i = 1, 100 do run:complete(run:failover()) end
        run:probe()
        return run:complete(run:failover()), failure
      end }]])
    central:set{ inference = DOWN }
    local router <close> = make({}, { policy = path, on_log = function() lines = lines + 1 end })
    local reply = router:complete{ llm = "claude", body = BODY }
    assert.is_true(reply.failover)
    assert.is_true(#reply.trace <= 64)
    assert.is_true(lines <= 100)
  end)
end)

describe("a router", function()
  it("makes many runs, one after the other, on kept connections", function()
    local router <close> = make{}
    for _ = 1, 200 do
      local reply = router:complete{ llm = "claude", body = BODY }
      assert.equal("primary:ok:200", legs(reply))
    end
    assert.equal(200, central:count("POST"))
    assert.is_true(central:connections() <= 5)
  end)

  it("survives that a kept connection was closed meanwhile", function()
    local router <close> = make{}
    for _ = 1, 5 do
      assert.is_table((router:complete{ llm = "claude", body = BODY }))
      local port = central.port
      assert.is_number(port)
      central:set{ inference = { { status = 200, json = { choices = {} }, headers = { Connection = "close" } } } }
      assert.is_table((router:complete{ llm = "claude", body = BODY }))
      central:set{ inference = false }
    end
  end)

  it("sends a megabyte as it stands, to the central and to the stand-in", function()
    local body = ('{"model":"claude","messages":[{"role":"user","content":"%s"}]}'):format(("\\u00e4x "):rep(150000))
    central:set{ inference = DOWN }
    local router <close> = make{}
    local reply, failure = router:complete{ llm = "claude", body = body }
    assert.is_table(reply, failure and failure.message)
    assert.is_true(central:requests("POST")[1].body == body)
    assert.is_true(stand_in:requests("POST")[1].body == (body:gsub('"claude"', '"qwen3"', 1)))
  end)

  it("fails over even when the central answers before it has read the body", function()
    local early = peers.central{ early = true, inference = DOWN, llms = { claude = {} },
      tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
    local body = ('{"model":"claude","messages":"%s"}'):format(("x"):rep(4000000))
    local router <close> = make({}, { central_url = early.url })
    local reply, failure = router:complete{ llm = "claude", body = body }
    early:stop()
    assert.is_table(reply, failure and failure.message)
    assert.is_true(reply.failover)
  end)
end)
