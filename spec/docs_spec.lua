-- The reference page holds everything that is public, under a comment that says what it is.
local tmp = require "spec.support.tmp"
local shell = require "spec.support.shell"

describe("the reference page", function()
  local page

  setup(function()
    local r = shell.run{ "lua5.4", "spec/docs.lua" }
    assert.equal(0, r.status, r.stderr)
    page = r.stdout
  end)

  it("has every function of the headers, with what it does", function()
    local count = 0
    for _, path in ipairs{ "include/deputy.h", "include/deputy/provider.h", "include/deputy/managed.h" } do
      for name in tmp.read(path):gmatch("DEPUTY_API [^;{]-(deputy_[%w_]+)%(") do
        assert.matches(name .. "(", page, 1, true)
        count = count + 1
      end
    end
    assert.is_true(count > 40)
    assert.matches('<p>[^<]*It has no policy yet[^<]*</p>\n<pre id="deputy_engine_new">', page)
  end)

  it("has every function of the Lua module", function()
    local count = 0
    for name in tmp.read("lua/deputy/meta.lua"):gmatch("\nfunction ([%w_.:]+)") do
      assert.matches("function " .. name .. "(", page, 1, true)
      count = count + 1
    end
    assert.is_true(count > 20)
  end)

  it("is well-formed", function()
    for _, tag in ipairs{ "pre", "p", "h2", "h3", "li", "ul", "nav", "html" } do
      local _, opened = page:gsub("<" .. tag .. "[ >]", "")
      local _, closed = page:gsub("</" .. tag .. ">", "")
      assert.equal(opened, closed, tag)
    end
  end)
end)
