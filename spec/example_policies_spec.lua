-- The policies under examples/: each is fail-closed in every world that verify looks at, and does what its header says
-- behind the real engine.
local deputy = require "deputy"
local verify = require "deputy.verify"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local NAMES = { "strict", "no_retry", "hedged_local", "ordered_chain", "office_hours", "canary_probe", "cost_cap",
  "cached_allow" }

local function path_of(name) return "examples/policies/" .. name .. ".lua" end

describe("each example", function()
  it("is named here", function()
    local known = {}
    for _, name in ipairs(NAMES) do known[path_of(name)] = true end
    local pipe = assert(io.popen("ls examples/policies/*.lua"))
    for path in pipe:lines() do assert.is_true(known[path], path) end
    pipe:close()
  end)

  for _, name in ipairs(NAMES) do
    describe(name, function()
      local text = read(path_of(name))

      it("says when to want it, and is short", function()
        assert.matches("^%-%- [^\n]+%.\n%-%-\n%-%- When to want it: ", text)
        local _, lines = text:gsub("\n", "")
        assert.is_true(lines <= 70)
      end)

      it("is fail-closed behind the gate, three requests deep", function()
        local report = verify.run{ name = name, text = text, depth = 3 }
        assert.same({}, report.findings)
        assert.is_true(report.fail_closed)
      end)

      it("is fail-closed where the script alone decides", function()
        local report = verify.run{ name = name, text = text, depth = 2, gate = "policy" }
        assert.same({}, report.findings)
        assert.is_true(report.fail_closed)
      end)
    end)
  end

  it("cost_cap with a cap that is reached is fail-closed", function()
    local text = read(path_of("cost_cap"))
    local report = verify.run{ name = "cost_cap", text = text, depth = 2, settings = { perHour = 2 } }
    assert.is_true(report.fail_closed)
    assert.is_true(#report.others > 0)
  end)
end)

-- given: policy, probe (status, or function(llm)), primary (a function), locals (name -> function), settings, gate
local function router_for(given)
  local registry, probed = deputy.registry(), {}
  local locals = given.locals or { { "local", function() return "the local reply" end } }
  for _, entry in ipairs(locals) do
    registry:register{ name = entry[1], complete = entry[2] }
    registry:register_failover("claude", entry[1])
  end
  local router = deputy.router(registry, {
    bearer_token = "token", policy = path_of(given.policy), settings = given.settings, gate = given.gate,
    probe = function(llm)
      probed[#probed + 1] = llm
      if type(given.probe) == "function" then return given.probe(llm) end
      return given.probe or 204
    end,
  })
  local DOWN = { kind = "status", status = 503, message = "down" }
  return function()
    local ok, result = pcall(router.run, router, "claude", given.primary or function() error(DOWN, 0) end)
    if ok then return result.result, result.via, probed end
    assert(result == DOWN or given.primary, result)
    return nil, nil, probed
  end
end

describe("behind the engine,", function()
  it("strict allows 200 and 204 and nothing else", function()
    for _, status in ipairs{ 200, 204 } do
      assert.equal("the local reply", (router_for{ policy = "strict", probe = status }()))
    end
    for _, status in ipairs{ 201, 202, 203, 206, 299, 302, 401, 404, 500 } do
      assert.is_nil((router_for{ policy = "strict", probe = status }()))
    end
  end)

  it("no_retry asks the primary once", function()
    local calls = 0
    local run = router_for{ policy = "no_retry", primary = function()
      calls = calls + 1
      error({ kind = "connect" }, 0)
    end }
    assert.equal("the local reply", (run()))
    assert.equal(1, calls)
  end)

  it("hedged_local replaces a primary that fails at once, and believes one that says no", function()
    assert.equal("the local reply", (router_for{ policy = "hedged_local" }()))
    assert.is_nil((router_for{ policy = "hedged_local", probe = 403 }()))
    local no = { kind = "status", status = 401 }
    local reply, _, probed = router_for{ policy = "hedged_local", primary = function() error(no, 0) end }()
    assert.is_nil(reply)
    assert.same({}, probed)
    assert.equal("fine", (router_for{ policy = "hedged_local", primary = function() return "fine" end }()))
  end)

  it("ordered_chain takes them in order and asks before each", function()
    local order = {}
    local function failing(name)
      return { name, function()
        order[#order + 1] = name
        error("busy", 0)
      end }
    end
    local locals = { failing("big"), failing("middle"), { "small", function() return "the small one's reply" end } }
    local reply, via, probed = router_for{ policy = "ordered_chain", locals = locals }()
    assert.equal("the small one's reply", reply)
    assert.equal("small", via)
    assert.same({ "big", "middle" }, order)
    assert.equal(3, #probed)
  end)

  it("ordered_chain stops where the central says no in the middle", function()
    local n = 0
    local locals = { { "big", function() error("busy", 0) end }, { "small", function() return "too late" end } }
    local reply = router_for{ policy = "ordered_chain", locals = locals, probe = function()
      n = n + 1
      return n == 1 and 204 or 403
    end }()
    assert.is_nil(reply)
    assert.equal(2, n)
  end)

  it("canary_probe believes nobody who knows an LLM that cannot exist", function()
    local reply, _, probed = router_for{ policy = "canary_probe", probe = 200 }()
    assert.is_nil(reply)
    assert.equal(1, #probed)
    assert.matches("^no%-such%-llm%-", probed[1])
    reply = router_for{ policy = "canary_probe", probe = function(llm) return llm == "claude" and 200 or 404 end }()
    assert.equal("the local reply", reply)
    reply = router_for{ policy = "canary_probe", probe = function(llm) return llm == "claude" and 200 or 302 end }()
    assert.is_nil(reply)
  end)

  it("cost_cap stops at its cap", function()
    local run = router_for{ policy = "cost_cap", settings = { perHour = 3 } }
    for _ = 1, 3 do assert.equal("the local reply", (run())) end
    for _ = 1, 3 do assert.is_nil((run())) end
  end)

  it("office_hours looks at the clock", function()
    local t = os.date("*t")
    local open = t.wday >= 2 and t.wday <= 6 and t.hour >= 8 and t.hour < 18
    assert.equal(open and "the local reply" or nil, (router_for{ policy = "office_hours" }()))
  end)

  it("cached_allow uses a clean 2xx again only where the host said so", function()
    for _, gate in ipairs{ "policy", "probe" } do
      local answer = 204
      local run = router_for{ policy = "cached_allow", gate = gate, probe = function()
        if answer then return answer end
        return nil, "connect"
      end }
      assert.equal("the local reply", (run()))
      answer = nil
      assert.equal(gate == "policy" and "the local reply" or nil, (run()))
      answer = 403
      assert.is_nil((run()))
      answer = nil
      assert.is_nil((run()))
    end
  end)
end)
