-- Scripts that want to hang the engine, crash it, or get past it. Each is run by the real engine with small limits.
-- Of each is asked: it ends in time, the caller gets the primary's own word, no stand-in is called without a clean
-- 2xx, and a well-behaved policy works right after it.
local deputy = require "deputy"
local uv = require "luv"

local GOOD = "lua/router.lua"
local POLICY_MS, TOTAL_MS, LATE_MS = 50, 250, 50
-- For machines on which everything takes longer (valgrind): both bounds times this.
local SLOWER = tonumber(os.getenv("HOSTILE_SLOWER") or 1)

-- These wait again and again: what the engine does in between is not their time, and the deadline ends them.
local WAITS = { run_naps = true, run_late = true, run_many_legs = true, run_first_loops = true }

local function scripts(wanted)
  local names, folder = {}, uv.fs_scandir("spec/hostile")
  for name in function() return (uv.fs_scandir_next(folder)) end do
    local base = name:match("^(.*)%.lua$")
    if base and (base:match("^load_") ~= nil) == wanted then names[#names + 1] = base end
  end
  table.sort(names)
  return names
end

local function path(name) return ("spec/hostile/%s.lua"):format(name) end

describe("a hostile script", function()
  local registry, dispatched, probe_status, down

  local function make(policy)
    return deputy.router(registry, {
      policy = policy,
      bearer_token = "tok",
      verify = "off",
      probe = function() return probe_status end,
      timeouts = { total_ms = TOTAL_MS },
      limits = {
        policy_ms = POLICY_MS, policy_instructions = 1 << 40, policy_run_bytes = 8 << 20, policy_bytes = 16 << 20,
      },
    })
  end

  -- How long it took: in all, and computing. Other programs on the machine are not the script's fault, so that the
  -- strict bound is for the time that this process computed.
  local function timed(fn, ...)
    local began, computed = uv.hrtime(), os.clock()
    fn(...)
    local took, cpu = (uv.hrtime() - began) / 1e6, (os.clock() - computed) * 1000
    assert.is_true(took <= (TOTAL_MS + LATE_MS) * SLOWER, ("took %.0f ms"):format(took))
    return cpu
  end

  local function fails_as_primary(router)
    local cpu = timed(function()
      local ok, raised = pcall(router.run, router, "claude", function() error(down, 0) end)
      assert.is_false(ok)
      assert.is_true(rawequal(down, raised), tostring(raised))
    end)
    assert.equal(0, dispatched)
    return cpu
  end

  local function behaves(router)
    probe_status = 204
    local result = router:run("claude", function() error(down, 0) end)
    assert.same({ result = "local", failover = true, via = "local" }, result)
    assert.equal("allowed", router:check_auth("claude"))
  end

  before_each(function()
    dispatched, probe_status, down = 0, 403, { status = 503 }
    registry = deputy.registry()
    registry:register{ name = "local", complete = function()
      dispatched = dispatched + 1
      return "local"
    end }
    registry:register_failover("claude", "local")
  end)

  for _, name in ipairs(scripts(false)) do
    it("ends, and fails closed: " .. name, function()
      local router <close> = make(path(name))
      for _ = 1, 2 do
        local cpu = fails_as_primary(router)
        local most = WAITS[name] and TOTAL_MS or POLICY_MS
        assert.is_true(cpu <= (most + LATE_MS) * SLOWER, ("computed for %.0f ms"):format(cpu))
      end
      timed(function()
        local value = {}
        local result = router:run("claude", function() return value end)
        assert.is_true(rawequal(value, result.result))
        assert.is_false(result.failover)
      end)
      timed(function() assert.not_equal("allowed", router:check_auth("claude")) end)
      assert.equal(0, dispatched)
      probe_status = 200
      timed(function()
        local ok, result = pcall(router.run, router, "claude", function() error(down, 0) end)
        assert.is_true(ok and result.via == "local" and dispatched > 0 or rawequal(result, down))
      end)
      assert(router:load_policy(GOOD))
      behaves(router)
    end)
  end

  for _, name in ipairs(scripts(true)) do
    it("is not loaded, and the one before stays: " .. name, function()
      local router <close> = make(GOOD)
      local cpu = timed(function()
        local loaded, failure = router:load_policy(path(name))
        assert.is_nil(loaded)
        assert.matches("cannot load the policy spec/hostile/" .. name, failure.message, 1, true)
      end)
      assert.is_true(cpu <= (POLICY_MS + LATE_MS) * SLOWER, ("computed for %.0f ms"):format(cpu))
      fails_as_primary(router)
      behaves(router)
    end)
  end

  -- verify looks at a script before it is used: it must come to an end too. Its own bound is 2 s, and one more for a
  -- script that runs away. These are the ones that only the library's limits end.
  for _, name in ipairs{ "coroutine_close_deep", "coroutine_tree", "loop_coroutine", "loop_xpcall_handler",
    "pattern_star" } do
    it("ends while it is verified, and is refused: " .. name, function()
      local computed = os.clock()
      assert.error_matches(function() deputy.router(registry, { policy = path(name), bearer_token = "tok" }) end, name)
      assert.is_true(os.clock() - computed <= 3.5 * SLOWER)
    end)
  end

  it("has company", function() assert.is_true(#scripts(false) + #scripts(true) >= 60) end)
end)
