-- What a script accepts in policy.settings, and what it says about the rest.
local settings = require "deputy.settings"

local DECLARED = {
  failoverOn = { default = "unavailable", one_of = { "unavailable", "any" } },
  retries = { default = 1, from = 0, to = 3 },
  name = { type = "string" },
  breaker = { off = true, fields = {
    failures = { default = 5, from = 1, to = 1000 },
    openMs = { default = 10000, from = 1, to = 3600000 },
  } },
}

describe("settings", function()
  it("have defaults for all that is absent", function()
    assert.same({ failoverOn = "unavailable", retries = 1, breaker = { failures = 5, openMs = 10000 } },
      settings.read({}, DECLARED))
  end)

  it("keep what is given, and a whole number stays whole however it is written", function()
    local given = { failoverOn = "any", retries = 2.0, name = "x", breaker = { failures = 2 } }
    local read = settings.read(given, DECLARED)
    assert.same({ failoverOn = "any", retries = 2, name = "x", breaker = { failures = 2, openMs = 10000 } }, read)
    assert.equal("integer", math.type(read.retries))
  end)

  it("turn off what may be turned off", function()
    assert.equal(false, settings.read({ breaker = false }, DECLARED).breaker)
    assert.equal(0, settings.read({ retries = 0 }, DECLARED).retries)
    assert.same({ failures = 5, openMs = 10000 }, settings.read({ breaker = true }, DECLARED).breaker)
  end)

  local WRONG = {
    { { retries = 7 }, "policy.settings.retries: expected a whole number from 0 to 3, got 7" },
    { { retries = 9.0 }, "policy.settings.retries: expected a whole number from 0 to 3, got 9" },
    { { retries = 1.5 }, "policy.settings.retries: expected a whole number from 0 to 3, got 1.5" },
    { { retries = "1" }, 'policy.settings.retries: expected a whole number from 0 to 3, got "1"' },
    { { retries = true }, "policy.settings.retries: expected a whole number from 0 to 3, got true" },
    { { retries = 0 / 0 }, "policy.settings.retries: expected a whole number from 0 to 3, got " .. tostring(0 / 0) },
    { { retries = math.huge }, "policy.settings.retries: expected a whole number from 0 to 3, got inf" },
    { { retires = 1 }, 'policy.settings.retires: unknown; did you mean "retries"?' },
    { { failover_on = "any" }, 'policy.settings.failover_on: unknown; did you mean "failoverOn"?' },
    { { x = 1 }, "policy.settings.x: unknown; known are breaker, failoverOn, name, retries" },
    { { failoverOn = "all" }, 'policy.settings.failoverOn: expected "unavailable" or "any", got "all"' },
    { { name = 3 }, "policy.settings.name: expected a string, got 3" },
    { { breaker = 3 }, "policy.settings.breaker: expected an object, or false, got 3" },
    { { breaker = { 1, 2 } }, "policy.settings.breaker: expected an object, or false, got an array" },
    { { breaker = { failures = 0 } },
      "policy.settings.breaker.failures: expected a whole number from 1 to 1000, got 0" },
    { { breaker = { openMS = 1 } }, 'policy.settings.breaker.openMS: unknown; did you mean "openMs"?' },
    { { 1, 2 }, "policy.settings.1: unknown; known are breaker, failoverOn, name, retries; "
      .. "policy.settings.2: unknown; known are breaker, failoverOn, name, retries" },
    { 3, "policy.settings: expected an object, got 3" },
  }
  for _, case in ipairs(WRONG) do
    it("say: " .. case[2], function()
      local ok, message = pcall(settings.read, case[1], DECLARED)
      assert.is_false(ok)
      assert.equal(case[2], message)
    end)
  end

  it("say every mistake at once, sorted", function()
    local said = settings.problems({ retries = 9, breaker = { failures = -1 }, zzz = 1 }, DECLARED)
    assert.equal(3, #said)
    assert.matches("zzz", said[1])
    assert.matches("breaker.failures", said[2])
    assert.matches("retries", said[3])
  end)
end)
