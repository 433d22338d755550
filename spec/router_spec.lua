local deputy = require "deputy"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local POLICY = "lua/router.lua"
local TOKEN = "tok-alice"

local function fails(value)
  return function() error(value, 0) end
end

local function never() error("this must not be called") end

-- Everything below the router is real here: sockets, the probe, the gate.
describe("a router in front of a central", function()
  local central, registry, router, local_provider

  before_each(function()
    central = peers.central{ llms = { claude = {}, ["a/b"] = {} }, tokens = { [TOKEN] = { view = { "*" } } } }
    registry = deputy.registry()
    local_provider = { name = "vllm", complete = never }
    registry:register(local_provider)
    registry:register_failover("claude", "vllm")
    router = deputy.router(registry, { central_url = central.url, bearer_token = TOKEN, policy = POLICY })
  end)
  after_each(peers.stop_all)

  it("returns the primary's result when it succeeds, and probes nothing", function()
    local value = {}
    local result = router:run("claude", function() return value end, never)
    assert.is_true(rawequal(value, result.result))
    assert.is_false(result.failover)
    assert.is_nil(result.via)
    assert.equal(0, central:connections())
  end)

  it("falls back when the primary fails and the probe says 200, with failover, via, and the bearer attached", function()
    local seen
    local result = router:run("claude", fails("central is down"), function(provider)
      seen = provider
      return "from the local model"
    end)
    assert.same({ result = "from the local model", failover = true, via = "vllm" }, result)
    assert.is_true(rawequal(local_provider, seen))
    local log = central:log()
    assert.equal(1, #log)
    assert.equal("HEAD /api/v1/llms/claude", log[1].method .. " " .. log[1].target)
    assert.equal("Bearer " .. TOKEN, log[1].headers.authorization)
  end)

  it("raises the primary's error when no failover is registered", function()
    local failure = {}
    local ok, raised = pcall(router.run, router, "opus", fails(failure), never)
    assert.is_false(ok)
    assert.is_true(rawequal(failure, raised))
    assert.equal(0, central:connections())
  end)

  it("raises the primary's error when the probe says 403", function()
    central:revoke(TOKEN, "*", "view")
    local failure = { status = 503 }
    local ok, raised = pcall(router.run, router, "claude", fails(failure), never)
    assert.is_false(ok)
    assert.is_true(rawequal(failure, raised))
    assert.equal(1, central:count("HEAD"))
  end)

  it("raises the primary's error when the central is unreachable", function()
    central:stop()
    local failure = { kind = "connect" }
    local ok, raised = pcall(router.run, router, "claude", fails(failure), never)
    assert.is_false(ok)
    assert.is_true(rawequal(failure, raised))
  end)

  it("raises the primary's error when the substitute fails too", function()
    local failure, other = {}, {}
    local ok, raised = pcall(router.run, router, "claude", fails(failure), fails(other))
    assert.is_false(ok)
    assert.is_true(rawequal(failure, raised))
  end)

  it("check_auth: 200 and 204 allowed; 401 and 403 forbidden; 404 and 500 unreachable", function()
    local expected = { [200] = "allowed", [204] = "allowed", [401] = "forbidden", [403] = "forbidden",
      [404] = "unreachable", [500] = "unreachable" }
    for status, verdict in pairs(expected) do
      central:set{ probe = { status = status } }
      assert.equal(verdict, router:check_auth("claude"), status)
    end
  end)

  it("check_auth asks for the caller that it is told, by the name that it is told", function()
    assert.equal("allowed", router:check_auth("claude"))
    assert.equal("forbidden", router:check_auth("claude", "tok-mallory"))
    assert.equal("allowed", router:check_auth("a/b"))
    assert.same({ "/api/v1/llms/claude", "/api/v1/llms/claude", "/api/v1/llms/a%2Fb" },
      { central:log()[1].target, central:log()[2].target, central:log()[3].target })
    assert.equal("Bearer tok-mallory", central:log()[2].headers.authorization)
  end)

  it("check_auth calls unreachable what cannot be asked, without a byte sent", function()
    for _, name in ipairs{ "", ".", "..", "a\nb", "a\rb", "a\0b", ("x"):rep(129) } do
      assert.equal("unreachable", router:check_auth(name))
    end
    for _, token in ipairs{ "", "a b", "a\r\nX: y", "a\0b", "\xff" } do
      assert.equal("unreachable", router:check_auth("claude", token))
    end
    assert.equal(0, central:connections())
    assert.error_matches(function() router:check_auth() end, "the LLM's name, a string")
    assert.error_matches(function() router:check_auth("claude", {}) end, "expected a token, a string, got a table")
  end)

  it("without a token nothing is probed and nothing allowed", function()
    local anonymous = deputy.router(registry, { central_url = central.url, policy = POLICY })
    assert.equal("unreachable", anonymous:check_auth("claude"))
    assert.error_matches(function() anonymous:run("claude", fails("down"), never) end, "down")
    assert.equal(0, central:connections())
  end)

  it("a permission that is revoked stops the next run", function()
    local function run() return pcall(router.run, router, "claude", fails("down"), function() return 1 end) end
    assert.is_true((run()))
    central:revoke(TOKEN, "*", "view")
    assert.is_false((run()))
    central:grant(TOKEN, "claude", "view")
    assert.is_true((run()))
  end)
end)

describe("a router with a probe function", function()
  local registry, status, why, probes

  local function make(options)
    options.policy = options.policy or POLICY
    options.bearer_token = options.bearer_token or TOKEN
    options.settings = options.settings or { retries = 0, breaker = false }
    options.probe = options.probe or function(llm, token)
      probes[#probes + 1] = { llm, token }
      return status, why
    end
    return deputy.router(registry, options)
  end

  before_each(function()
    status, why, probes = 200, nil, {}
    registry = deputy.registry()
    registry:register{ name = "one", complete = function(_, asked) return "one for " .. tostring(asked) end }
    registry:register_failover("claude", "one")
  end)

  it("is asked with the LLM and the token", function()
    make{}:run("claude", fails("down"), function() end)
    assert.same({ { "claude", TOKEN } }, probes)
  end)

  -- Written by hand from design 5.1 and 5.2, not from the code.
  it("of 1,000 status numbers and every failure only a clean 2xx lets a local provider be called", function()
    local router, calls = make{}, 0
    local function run() return pcall(router.run, router, "claude", fails("down"), function() calls = calls + 1 end) end
    for number = 0, 999 do
      status, why, calls = number, nil, 0
      local clean = number >= 200 and number <= 299
      assert.equal(clean, (run()), number)
      assert.equal(clean and 1 or 0, calls, number)
      local verdict = clean and "allowed" or (number == 401 or number == 403) and "forbidden" or "unreachable"
      assert.equal(verdict, router:check_auth("claude"), number)
    end
    calls = 0
    for _, kind in ipairs{ "timeout", "dns", "connect", "tls", "protocol", "limit", "no_token", "ok", "nonsense" } do
      status, why = nil, kind
      assert.is_false((run()))
      assert.equal("unreachable", router:check_auth("claude"))
    end
    assert.equal(0, calls)
  end)

  it("allows nothing when it raises or answers nonsense", function()
    local logged = {}
    for _, probe in ipairs{
      fails("oops"), fails({}), fails(nil), function() return "200" end, function() return 200.5 end,
      function() return -1 end, function() return 1200 end, function() return true end, function() return {} end,
      function() end, function() return nil, {} end, coroutine.yield,
    } do
      local router = make{ probe = probe, on_log = function(level, text) logged[#logged + 1] = level .. text end }
      assert.equal("unreachable", router:check_auth("claude"))
      assert.error_matches(function() router:run("claude", fails("down"), never) end, "down")
    end
    assert.matches("^errorthe host's probe function failed, which allows nothing: .*oops", logged[1])
  end)

  it("hands back values as they are, nil and false too", function()
    local router = make{}
    for _, value in ipairs{ 1, 1.5, "text", true, print, coroutine.create(print), {} } do
      assert.is_true(rawequal(value, router:run("claude", function() return value end).result))
      assert.is_true(rawequal(value, router:run("claude", fails("down"), function() return value end).result))
    end
    assert.same({ failover = false }, router:run("claude", function() end))
    assert.same({ failover = false, result = false }, router:run("claude", function() return false end))
    assert.same({ failover = true, via = "one" }, router:run("claude", fails("x"), function() return nil, "why" end))
    assert.same({ failover = true, via = "one", result = false },
      router:run("claude", fails("x"), function() return false end))
  end)

  it("raises values as they are, nil and false too", function()
    local router = make{}
    local meta = setmetatable({}, { __index = function() error("do not look") end, __name = "odd" })
    for _, value in ipairs{ 1, "text", true, print, coroutine.create(print), {}, meta, deputy.registry() } do
      local ok, raised = pcall(router.run, router, "nobody", fails(value))
      assert.is_false(ok)
      assert.is_true(rawequal(value, raised))
    end
    assert.same({ n = 2, false }, table.pack(pcall(router.run, router, "nobody", fails(nil))))
    assert.same({ false, false }, { pcall(router.run, router, "nobody", fails(false)) })
  end)

  it("takes a failure's words from the error value", function()
    local router = make{}
    local function fails_over(value) return (pcall(router.run, router, "claude", fails(value), type)) end
    local down = {
      "a string", {}, { status = 503 }, { status = 429 }, { kind = "connect" },
      { kind = "timeout", code = "first_byte" }, { kind = "status" },
      { kind = "status", status = 500 }, { status = "503" }, { kind = "unheard of" }, { status = 503.5 },
    }
    for i, value in ipairs(down) do assert.is_true(fails_over(value), i) end
    local verdicts = { { status = 400 }, { status = 401 }, { status = 403, message = "no" }, { status = 404 },
      { kind = "limit" }, { kind = "cancelled" }, { kind = "refused" },
      setmetatable({}, { __index = { status = 403 } }) }
    for i, value in ipairs(verdicts) do assert.is_false(fails_over(value), i) end
  end)

  it("shows a policy what the error value said", function()
    local seen
    local path = tmp.write(nil, "policy.lua", [[
      local M = {}
      function M.should_failover() return false end
      function M.verdict() return "unreachable" end
      function M.route(run)
        local reply, f = run:primary()
        if reply then return reply end
        local words = { f.kind, tostring(f.status), tostring(f.code), f.message, tostring(f.retry_after) }
        log("info", table.concat(words, "|"))
        return nil, f
      end
      return M]])
    local router = make{ policy = path, on_log = function(_, text) seen = text end }
    local function words(value)
      pcall(router.run, router, "claude", fails(value))
      return (seen:gsub("^policy: ", ""))
    end
    assert.equal("status|429|rate_limit|slow down|1.5",
      words{ status = 429, code = "rate_limit", message = "slow down", retry_after = 1.5 })
    assert.equal("dns|nil|x|gone|nil", words{ kind = "dns", code = "x", message = "gone", retry_after = -1 })
    assert.equal("error|nil|nil|plain text|nil", words("plain text"))
    assert.matches("^error|nil|nil|.*|nil$", words(nil))
    assert.matches("^status|500|nil|.*|nil$", words{ status = 500, message = 5, code = {}, retry_after = "1" })
    assert.equal("timeout|504|nil|late|nil", words{ kind = "timeout", status = 504, message = "late" })
  end)

  it("calls the provider's own complete when there is no substitute", function()
    local router = make{}
    assert.same({ result = "one for claude", failover = true, via = "one" }, router:run("claude", fails("down")))
    registry:register{ name = "broken", complete = function() return nil, { status = 500 } end }
    registry:register_failover("opus", "broken")
    assert.error_matches(function() router:run("opus", fails("down")) end, "down")
    registry:register(deputy.echo("echo"))
    registry:register_failover("sonnet", "echo")
    assert.error_matches(function() router:run("sonnet", fails("down")) end, "down")
  end)

  it("hands a provider made in C to the substitute", function()
    local router, echo = make{}, deputy.echo("echo")
    registry:register(echo)
    registry:register_failover("sonnet", "echo")
    local result = router:run("sonnet", fails("down"), function(provider)
      assert.is_true(rawequal(echo, provider))
      return provider:complete('{"messages":[{"role":"user","content":"hello"}]}').body
    end)
    assert.matches('"content":"hello"', result.result)
    assert.equal("echo", result.via)
  end)

  it("traces each leg, without showing it in pairs", function()
    local result = make{}:run("claude", fails{ status = 503 }, function() return 1 end)
    local legs = {}
    for i, leg in ipairs(result.trace) do
      legs[i] = { leg.leg, leg.kind, leg.status or 0, leg.provider or "", leg.verdict or "" }
      assert.is_true(leg.start_us <= leg.end_us)
      assert.equal(1, leg.attempt)
    end
    assert.equal(3, #legs)
    assert.same({ "primary", "status", 0, "", "" }, legs[1])
    assert.same({ "probe", "ok", 200, "", "allowed" }, legs[2])
    assert.same({ "local", "ok", 0, "one", "" }, legs[3])
    assert.is_true(rawequal(result.trace, result.trace))
    assert.is_nil(rawget(result, "trace"))
    assert.is_nil(result.anything_else)
  end)

  it("may not be used from inside its own callbacks, and says so", function()
    local router = make{}
    for _, what in ipairs{ "run", "complete", "check_auth" } do
      local message
      router:run("claude", function()
        local _
        _, message = pcall(router[what], router, what == "complete" and { llm = "claude" } or "claude", print)
      end)
      assert.matches("router:" .. what .. ": not from inside a callback of the same router", message)
    end
    local other = make{}
    local function two() return 2 end
    assert.equal(2, router:run("claude", function() return other:run("claude", two).result end).result)
    assert.equal(3, router:run("claude", function() return 3 end).result)
  end)

  it("may be closed, but not from inside a callback", function()
    local router = make{}
    local close = getmetatable(router).__close
    local ok = router:run("claude", function() return pcall(close, router) end).result
    assert.is_false(ok)
    close(router)
    close(router)
    assert.error_matches(function() router:run("claude", print) end, "this router is closed")
  end)

  it("its callbacks may not yield, and the error says so; that is no reason for a failover", function()
    local router = make{}
    local co = coroutine.wrap(function() return pcall(router.run, router, "claude", coroutine.yield, never) end)
    local ok, message = co()
    assert.is_false(ok)
    assert.matches("attempt to yield across a C%-call boundary", message)
    co = coroutine.wrap(function()
      return pcall(router.run, router, "claude", fails("down"), function() coroutine.yield() end)
    end)
    ok, message = co()
    assert.is_false(ok)
    assert.matches("down", message)
  end)

  it("runs in coroutines, and callbacks may use coroutines of their own", function()
    local router = make{}
    local function inner() return router:run("claude", fails("down"), coroutine.wrap(function() return 7 end)) end
    assert.equal(7, coroutine.wrap(inner)().result)
    assert.equal(7, inner().result)
  end)

  it("survives a registry that changes while it runs", function()
    local router = make{}
    local function swap()
      registry:unregister("one")
      registry:register{ name = "two", complete = never }
      registry:register_failover("claude", "two")
      error("down")
    end
    assert.equal("two", router:run("claude", swap, function(p) return p.name end).via)
    local result = router:run("claude", fails("down"), function(p)
      registry:unregister("two")
      return p.name
    end)
    assert.same({ result = "two", failover = true, via = "two" }, result)
    assert.error_matches(function() router:run("claude", fails("down"), never) end, "down")
  end)

  it("shares its registry with other routers", function()
    local a, b = make{}, make{}
    registry:unregister("one")
    assert.error_matches(function() a:run("claude", fails("down")) end, "down")
    registry:register{ name = "two", complete = function() return "two" end }
    registry:register_failover("claude", "two")
    assert.equal("two", a:run("claude", fails("down")).result)
    assert.equal("two", b:run("claude", fails("down")).result)
  end)

  it("a primary may take longer than a policy may compute", function()
    local router = make{ limits = { policy_ms = 20 } }
    local function slow(value)
      return function()
        local stop = os.clock() + 0.05
        while os.clock() < stop do end -- luacheck: ignore 542
        return value or error("down")
      end
    end
    assert.equal(1, router:run("claude", slow(1)).result)
    assert.equal(2, router:run("claude", slow(), slow(2)).result)
    router = make{ limits = { policy_ms = 20 }, probe = slow(200) }
    assert.equal(3, router:run("claude", fails("down"), function() return 3 end).result)
    assert.equal("allowed", router:check_auth("claude"))
    -- A script that goes on computing is looked at again.
    router = make{ limits = { policy_ms = 20 }, probe = slow(200), policy = tmp.write(tmp.dir(), "thinks.lua", [[
      local function think() for _ = 1, 1000 do end end
      return { should_failover = print, verdict = print, route = function(run)
        local reply, failure = run:primary() think()
        run:probe() think()
        return run:complete(run:failover()), failure
      end }]]), verify = "off" }
    local result = router:run("claude", slow(), slow(4))
    assert.equal(4, result.result)
    assert.is_true(result.failover)
  end)

  it("says what is wrong with arguments", function()
    local router = make{}
    assert.error_matches(function() router:run(nil, print) end, "the LLM's name, a string, got a nil")
    assert.error_matches(function() router:run("claude") end, "primary: expected a function, got a nil")
    assert.error_matches(function() router:run("claude", print, "x") end, "substitute: expected a function")
    assert.error_matches(function() router:run("a\0b", print) end, "NUL byte")
    assert.error_matches(function() router:run("..", print) end, "cannot be a name")
    assert.error_matches(function() router.run("claude", print) end, "call its methods with a colon")
    assert.error_matches(function() router:load_policy() end, "expected a path, a string")
    assert.equal(4, router:run("claude", setmetatable({}, { __call = function() return 4 end })).result)
  end)

  it("loads another policy, or keeps the old one and says why", function()
    local router = make{}
    local strict = tmp.write(nil, "strict.lua", [[
      return { route = function(run) return run:primary() end, should_failover = function() return false end,
        verdict = function() return "unreachable" end }]])
    local ok, failure = router:load_policy(strict .. ".missing")
    assert.is_nil(ok)
    assert.equal("error", failure.kind)
    assert.equal("policy", failure.code)
    assert.matches("cannot read the policy", failure.message)
    ok, failure = router:load_policy(tmp.write(nil, "bad.lua", "return {"))
    assert.is_nil(ok)
    assert.matches("bad.lua", tostring(failure))
    assert.is_true(router:run("claude", fails("down")).failover)
    assert.is_true(router:load_policy(strict))
    assert.error_matches(function() router:run("claude", fails("down")) end, "down")
    assert.equal("unreachable", router:check_auth("claude"))
    -- swapped from inside a run, which finishes on the old one
    assert.equal(1, router:run("claude", function() assert(router:load_policy(POLICY)) return 1 end).result)
    assert.equal("allowed", router:check_auth("claude"))
  end)

  it("a policy that is looser than the gate is overruled, with a word in the log", function()
    local loose = tmp.write(nil, "loose.lua", [[
      local M = { should_failover = function() return true end, verdict = function() return "allowed" end }
      function M.route(run)
        local reply, failure = run:primary()
        if reply then return reply end
        run:probe()
        return run:complete(run:failover()), failure
      end
      return M]])
    local logged = {}
    status = 403
    local router = make{ policy = loose, verify = "off", on_log = function(_, text) logged[#logged + 1] = text end }
    assert.error_matches(function() router:run("claude", fails("down"), never) end, "down")
    assert.matches("gate", table.concat(logged, "\n"))
    assert.equal("forbidden", router:check_auth("claude"))
    local trusting = make{ policy = loose, verify = "off", gate = "policy" }
    assert.equal("mine", trusting:run("claude", fails("down"), function() return "mine" end).result)
  end)

  it("a policy that is not fail-closed is refused in words, unless the host wants it otherwise", function()
    local loose = tmp.write(nil, "loose.lua", [[
      local M = { should_failover = function() return true end, verdict = function() return "allowed" end }
      function M.route(run) return run:primary() end
      return M]])
    local ok, message = pcall(make, { policy = loose })
    assert.is_false(ok)
    assert.matches("loose.lua is not fail%-closed: verdict allows what is not a clean 2xx", message)
    assert.matches("deputy verify tells more; switch: policy.verify", message, 1, true)

    local logged = {}
    local function log(level, text) logged[#logged + 1] = level .. " " .. text end
    assert.equal(5, make{ policy = loose, verify = "warn", on_log = log }:run("claude", function() return 5 end).result)
    assert.equal(1, #logged)
    assert.matches("^warn .*is not fail%-closed: verdict allows", logged[1])
    assert.equal(5, make{ policy = loose, verify = "off", on_log = log }:run("claude", function() return 5 end).result)
    assert.equal(1, #logged)
    local sleeper = "spec/verify/sleeps_after_probe.lua"
    assert.error_matches(function() make{ policy = sleeper } end, "a permit is good for 5 s")
    make{ policy = sleeper, permit_ms = 7000 }
    assert.error_matches(function() make{ verify = "yes" } end, 'verify: expected "refuse", "warn" or "off", got "yes"')
  end)

  it("reaches the script as settings", function()
    local seen
    local path = tmp.write(nil, "settings.lua", [[
      log("info", JSON.encode(settings))
      return { route = function(run) return run:primary() end, should_failover = function() return false end,
        verdict = function() return "unreachable" end }]])
    make{ policy = path, settings = { retries = 2 }, on_log = function(_, text) seen = text end }
    assert.equal('policy: {"retries":2}', seen)
    make{ policy = path, settings = {}, on_log = function(_, text) seen = text end }
    assert.equal("policy: {}", seen)
  end)

  it("a log function that fails harms nothing", function()
    local path = tmp.write(nil, "loud.lua", [[
      log("info", "loading")
      return { route = function(run) run:log("warn", "hello") return run:primary() end,
        should_failover = function() return false end, verdict = function() return "unreachable" end }]])
    local router = make{ policy = path, on_log = fails("log is broken") }
    assert.equal(5, router:run("claude", function() return 5 end).result)
  end)

  it("leaves nothing behind after many runs", function()
    local router = make{ probe = function() return 200 end }
    local function work()
      for _ = 1, 300 do
        router:run("claude", fails{ status = 503 }, function() return {} end)
        pcall(router.run, router, "nobody", fails({}))
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage("count")
    end
    work()
    local before = work()
    assert.is_true(work() <= before + 4)
  end)
end)

describe("the options of a router", function()
  local registry = deputy.registry()

  local function refused(options, pattern)
    if type(options) == "table" and options.policy == nil then options.policy = POLICY end
    assert.error_matches(function() deputy.router(registry, options) end, pattern)
  end

  it("are known by name, and the nearest name is suggested", function()
    refused({ polcy = "x" }, "deputy.router: unknown option 'polcy' %(did you mean 'policy'%?%)")
    refused({ centralUrl = "x" }, "unknown option 'centralUrl' %(did you mean 'central_url'%?%)")
    refused({ xyzzy_nothing = 1 }, "unknown option 'xyzzy_nothing'$")
    refused({ timeouts = { probems = 1 } }, "timeouts: unknown option 'probems' %(did you mean 'probe_ms'%?%)")
    refused({ limits = { max_run = 1 } }, "limits: unknown option 'max_run' %(did you mean 'max_runs'%?%)")
    refused({ "x" }, "options have names, got a key that is a number")
    refused({ [("x"):rep(5000)] = 1 }, "unknown option")
  end)

  it("have types and ranges", function()
    refused("x", "expected a table of options as the second argument, got a string")
    refused({ central_url = 5 }, "central_url: expected a string, got a number")
    refused({ central_url = "http://a\0b" }, "central_url: the string holds a NUL byte")
    refused({ central_url = "ftp://x" }, "central_url")
    refused({ bearer_token = "a b" }, "deputy.router: ")
    refused({ policy = {} }, "policy: expected a string, got a table")
    refused({ policy = "/nowhere/router.lua" }, "cannot read the policy /nowhere/router.lua")
    refused({ gate = "none" }, 'gate: expected "probe" or "policy", got "none"')
    refused({ permit_ms = 0 }, "permit_ms: expected a whole number from 1 to 4294967295, got 0")
    refused({ permit_ms = 1.5 }, "permit_ms: expected a whole number")
    refused({ permit_ms = "5" }, "permit_ms: expected a number, got a string")
    refused({ timeouts = { probe_ms = -1 } }, "timeouts: probe_ms: expected a whole number")
    refused({ timeouts = { probe_ms = 1 << 40 } }, "timeouts: probe_ms: expected a whole number")
    refused({ limits = 5 }, "limits: expected a table, got a number")
    refused({ settings = { 1, 2 } }, "settings: expected a table of names, got an array")
    refused({ settings = { f = print } }, "serialise")
    refused({ inference = { 1 } }, "inference: expected { endpoint = path } with strings")
    refused({ on_log = "x" }, "on_log: expected a function, got a string")
    refused({ probe = 5 }, "probe: expected a function, got a number")
    assert.error_matches(function() deputy.router() end, "expected a registry made by deputy.registry%(%)")
    assert.error_matches(function() deputy.router({}, {}) end, "expected a registry made by deputy.registry%(%)")
  end)

  it("keep secrets out of errors", function()
    local _, message = pcall(deputy.router, registry, { policy = POLICY, bearer_token = "top secret" })
    assert.is_nil(message:find("secret", 1, true))
    _, message = pcall(deputy.router, registry, { policy = POLICY, central_url = "http://user:hunter2@host/" })
    assert.is_nil(message:find("hunter2", 1, true))
  end)
end)
