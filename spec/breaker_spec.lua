-- Breakers under a simulated clock.
local breakers = require "deputy.breaker"

local time, breaker, told

local function make(options)
  time = 1000
  told = {}
  options.now = function() return time end
  options.tell = function(topic, name, word, seconds)
    told[#told + 1] = table.concat({ topic, name, word or "closed", seconds }, " ")
  end
  breaker = breakers.new(options)
end

local function fail(name, n)
  for _ = 1, n do breaker:failed(name) end
end

local function size(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

describe("a breaker", function()
  before_each(function() make{ failures = 3, openMs = 10000 } end)

  it("is closed at first, and after fewer failures than its limit", function()
    assert.is_false(breaker:is_open("claude"))
    fail("claude", 2)
    assert.is_false(breaker:is_open("claude"))
  end)

  it("opens after so many failures in a row, for this name alone", function()
    fail("claude", 3)
    assert.is_true(breaker:is_open("claude"))
    assert.is_false(breaker:is_open("opus"))
  end)

  it("counts failures in a row: one success forgets them", function()
    fail("claude", 2)
    breaker:succeeded("claude")
    fail("claude", 2)
    assert.is_false(breaker:is_open("claude"))
    fail("claude", 1)
    assert.is_true(breaker:is_open("claude"))
  end)

  it("stays open for its time, then lets one trial through", function()
    fail("claude", 3)
    time = time + 9.999
    assert.is_true(breaker:is_open("claude"))
    time = time + 0.001
    assert.is_false(breaker:is_open("claude"))
    assert.is_true(breaker:is_open("claude"))
    assert.is_true(breaker:is_open("claude"))
  end)

  it("closes when the trial succeeds", function()
    fail("claude", 3)
    time = time + 10
    assert.is_false(breaker:is_open("claude"))
    breaker:succeeded("claude")
    assert.is_false(breaker:is_open("claude"))
    fail("claude", 2)
    assert.is_false(breaker:is_open("claude"))
  end)

  it("is open for its whole time again when the trial fails", function()
    fail("claude", 3)
    time = time + 10
    assert.is_false(breaker:is_open("claude"))
    time = time + 5
    fail("claude", 1)
    time = time + 9.9
    assert.is_true(breaker:is_open("claude"))
    time = time + 0.2
    assert.is_false(breaker:is_open("claude"))
  end)

  it("lets another trial through when the first is never heard of again", function()
    fail("claude", 3)
    time = time + 10
    assert.is_false(breaker:is_open("claude"))
    time = time + 10
    assert.is_false(breaker:is_open("claude"))
    assert.is_true(breaker:is_open("claude"))
  end)

  it("a late failure while it is open keeps it open from then on", function()
    fail("claude", 3)
    time = time + 8
    fail("claude", 1)
    time = time + 9
    assert.is_true(breaker:is_open("claude"))
  end)

  it("keeps a bounded number of names, and not the ones that work", function()
    make{ failures = 3, openMs = 10000, names = 10 }
    for i = 1, 1000 do
      breaker:succeeded("works-" .. i)
      assert.is_false(breaker:is_open("asked-" .. i))
    end
    assert.equal(0, size(breaker.young) + size(breaker.old))
    for i = 1, 1000 do
      fail("claude-" .. i, 1)
      assert.is_true(size(breaker.young) + size(breaker.old) <= 10)
    end
  end)

  it("forgets first what was not looked at for longest", function()
    make{ failures = 3, openMs = 10000, names = 10 }
    fail("claude", 3)
    for i = 1, 100 do
      fail("other-" .. i, 1)
      assert.is_true(breaker:is_open("claude"))
    end
    for i = 1, 10 do fail("other-" .. i, 1) end
    assert.is_false(breaker:is_open("claude"))
  end)

  it("uses the script's clock when it is given none", function()
    local old = rawget(_G, "now")
    rawset(_G, "now", function() return 5 end)
    local plain = breakers.new{ failures = 1, openMs = 1000 }
    plain:failed("claude")
    local open = plain:is_open("claude")
    rawset(_G, "now", old)
    assert.is_true(open)
  end)

  it("tells how it is, to whoever looks from outside", function()
    fail("claude", 2)
    breaker:succeeded("claude")
    assert.same({}, told)
    fail("claude", 3)
    time = 1010
    assert.is_false(breaker:is_open("claude"))
    breaker:failed("claude")
    time = 1020
    breaker:is_open("claude")
    breaker:succeeded("claude")
    breaker:succeeded("claude")
    assert.same({
      "breaker claude open 10.0", "breaker claude half_open 10.0", "breaker claude open 10.0",
      "breaker claude half_open 10.0", "breaker claude closed",
    }, told)
  end)

  it("tells of those that it forgets", function()
    make{ failures = 1, openMs = 10000, names = 4 }
    fail("a", 1)
    for _, name in ipairs{ "b", "c", "d", "e" } do fail(name, 1) end
    table.sort(told)
    assert.same({ "breaker a closed", "breaker a open 10.0", "breaker b closed", "breaker b open 10.0",
      "breaker c open 10.0", "breaker d open 10.0", "breaker e open 10.0" }, told)
  end)
end)
