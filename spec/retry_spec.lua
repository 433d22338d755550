-- When the primary is asked once more, under a simulated clock and chance.
local retry = require "deputy.retry"

local function wait(failure, given)
  given = given or {}
  local run = { attempt = given.attempt or 1, deadline = given.deadline or 600 }
  return retry.wait_ms(failure, run, given.retries or 1,
    function() return given.now or 0 end, function() return given.chance or 0.5 end)
end

local function status(number, after) return { kind = "status", status = number, retry_after = after } end

describe("retry", function()
  for _, kind in ipairs{ "connect", "dns", "tls" } do
    it("waits a moment after " .. kind, function() assert.equal(150, wait{ kind = kind }) end)
  end
  for _, number in ipairs{ 408, 425, 500, 502, 503, 504, 529 } do
    it("waits a moment after " .. number, function() assert.equal(150, wait(status(number))) end)
  end
  for _, number in ipairs{ 301, 400, 401, 402, 403, 404, 409, 413, 422, 451, 501, 505, 511, 599 } do
    it("never repeats a " .. number, function() assert.is_nil(wait(status(number))) end)
  end
  for _, kind in ipairs{ "timeout", "cut", "malformed", "in_band", "limit", "error", "cancelled", "deadline",
    "refused" } do
    it("never repeats after " .. kind, function() assert.is_nil(wait{ kind = kind, status = 503, retry_after = 1 }) end)
  end

  it("never repeats a silent primary, whichever phase it was in", function()
    for _, code in ipairs{ "connect", "first_byte", "first_token", "idle", "total" } do
      assert.is_nil(wait{ kind = "timeout", code = code })
    end
  end)

  it("waits as long as Retry-After says, and a little more, up to 5 s", function()
    assert.equal(2015, wait(status(429, 2)))
    assert.equal(5015, wait(status(429, 5)))
    assert.equal(15, wait(status(429, 0)))
    assert.is_nil(wait(status(429, 5.001)))
    assert.is_nil(wait(status(429, 60)))
  end)

  it("fails over at once after a 429 that does not say when", function() assert.is_nil(wait(status(429))) end)

  it("takes Retry-After of any status at its word", function()
    assert.equal(3015, wait(status(503, 3)))
    assert.is_nil(wait(status(503, 30)))
  end)

  it("is off at 0, and counts attempts, not failures", function()
    assert.is_nil(wait(status(503), { retries = 0 }))
    assert.is_nil(wait(status(503), { attempt = 2 }))
    assert.equal(300, wait(status(503), { attempt = 2, retries = 3 }))
    assert.equal(600, wait(status(503), { attempt = 3, retries = 3 }))
    assert.is_nil(wait(status(503), { attempt = 4, retries = 3 }))
  end)

  it("spreads over half of the backoff", function()
    assert.equal(100, wait(status(503), { chance = 0 }))
    assert.is_true(wait(status(503), { chance = 0.999999 }) < 200)
  end)

  it("never waits past the run's deadline", function()
    assert.equal(150, wait(status(503), { now = 10, deadline = 10.2 }))
    assert.is_nil(wait(status(503), { now = 10, deadline = 10.149 }))
    assert.is_nil(wait(status(503), { now = 10, deadline = 10.1 }))
    assert.is_nil(wait(status(503), { now = 10, deadline = 9 }))
    assert.is_nil(wait(status(429, 4), { now = 10, deadline = 14 }))
  end)
end)
