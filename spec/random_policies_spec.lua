-- Random policies against the real gate, POLICIES of them (20,000); `make soak` runs ten million.
local shell = require "spec.support.shell"

local function fuzz(env)
  env.DEPUTY_BUILD = os.getenv("DEPUTY_BUILD") or "build"
  return shell.run{ "lua5.4", "spec/fuzz/random_policies.lua", env = env, timeout_ms = 250000 }
end

describe("random policies", function()
  it("never have a local provider called without permission", function()
    local result = fuzz{ POLICIES = os.getenv("POLICIES") or "20000" }
    assert.equal("", result.stderr)
    assert.equal(0, result.status)
    assert.matches("none without permission", result.stdout)
    assert.is_true(tonumber(result.stdout:match("(%d+) dispatched")) > 1000)
  end)

  it("do so at once where there is no gate: the test can fail", function()
    local result = fuzz{ POLICIES = "20000", POLICY_GATE = "policy" }
    assert.equal(1, result.status)
    assert.matches("without a clean 2xx of its own", result.stderr)
  end)
end)
