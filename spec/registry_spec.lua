local deputy = require "deputy"

local function provider(name)
  return { name = name, complete = function() return "{}" end }
end

describe("the registry", function()
  local registry
  before_each(function() registry = deputy.registry() end)

  it("registers a central name to a local provider", function()
    local vllm = provider("vllm")
    registry:register(vllm)
    registry:register_failover("claude", "vllm")
    assert.is_true(rawequal(vllm, registry:failover_for("claude")))
  end)

  it("gives nil when there is no entry", function()
    registry:register(provider("vllm"))
    assert.is_nil(registry:failover_for("claude"))
    assert.equal(1, select("#", registry:failover_for("claude")))
  end)

  it("raises when the provider is not registered", function()
    assert.error_matches(function() registry:register_failover("claude", "vllm") end, "'vllm' is not registered")
    assert.is_nil(registry:failover_for("claude"))
    assert.same({}, registry:list_failovers())
  end)

  it("unregister drops the entries that pointed at it", function()
    registry:register(provider("a"))
    registry:register(provider("b"))
    registry:register_failover("claude", "a")
    registry:register_failover("opus", "a")
    registry:register_failover("opus", "b")
    registry:register_failover("sonnet", "b")
    registry:unregister("a")
    assert.is_nil(registry:failover_for("claude"))
    assert.equal("b", registry:failover_for("opus").name)
    assert.same({ { llm = "opus", provider = "b" }, { llm = "sonnet", provider = "b" } }, registry:list_failovers())
    registry:register(provider("a"))
    assert.is_nil(registry:failover_for("claude"))
  end)

  it("the list reports the current map, sorted by llm", function()
    registry:register(provider("one"))
    registry:register(provider("two"))
    registry:register_failover("sonnet", "one")
    registry:register_failover("claude", "two")
    registry:register_failover("opus", "one")
    registry:register_failover("opus", "two")
    registry:register_failover("opus", "one")
    assert.same({
      { llm = "claude", provider = "two" }, { llm = "opus", provider = "one" },
      { llm = "opus", provider = "two" }, { llm = "sonnet", provider = "one" },
    }, registry:list_failovers())
  end)

  it("lets the first registered stand in first", function()
    registry:register(provider("zeta"))
    registry:register(provider("alpha"))
    registry:register_failover("claude", "zeta")
    registry:register_failover("claude", "alpha")
    assert.equal("zeta", registry:failover_for("claude").name)
  end)

  it("lists providers by name, each the value that was registered, Lua or C", function()
    local b, a = provider("b"), deputy.echo("a")
    registry:register(b)
    registry:register(a)
    local list = registry:providers()
    assert.equal(2, #list)
    assert.is_true(rawequal(a, list[1]) and rawequal(b, list[2]))
    assert.same({ "a", "b" }, { list[1].name, list[2].name })
  end)

  it("refuses a second provider of the same name, which changes nothing", function()
    local first = provider("vllm")
    registry:register(first)
    registry:register_failover("claude", "vllm")
    assert.error_matches(function() registry:register(provider("vllm")) end, "'vllm' is already registered")
    assert.is_true(rawequal(first, registry:failover_for("claude")))
    assert.equal(1, #registry:providers())
  end)

  it("says what is wrong with a provider", function()
    local function refused(value, pattern)
      assert.error_matches(function() registry:register(value) end, pattern)
    end
    refused(nil, "expected a provider, .* got a nil")
    refused("vllm", "expected a provider, .* got a string")
    refused({ name = "x" }, "complete: expected a function, got a nil")
    refused({ name = "x", complete = 1 }, "complete: expected a function, got a number")
    refused({ name = "x", complete = print, list_models = {} }, "list_models: expected a function, got a table")
    refused({ name = "x", complete = print, is_available = true }, "is_available: expected a function, got a boolean")
    refused({ complete = print }, "the provider's name, a string, got a nil")
    refused(provider(""), "expected a name of 1 to 128 bytes, got none")
    refused(provider(("x"):rep(129)), "longer than 128 bytes")
    refused(provider("a\nb"), "control byte")
    refused(provider("a\0b"), "NUL byte")
    refused(provider(".."), "cannot be a name")
    assert.same({}, registry:providers())
    registry:register(setmetatable({}, { __index = provider("by metatable") }))
    registry:register({ name = "callable", complete = setmetatable({}, { __call = print }) })
    assert.equal(2, #registry:providers())
  end)

  it("says what is wrong with a name", function()
    registry:register(provider("vllm"))
    for _, name in ipairs{ "", ".", "..", "a\nb", ("x"):rep(129), "a\0b" } do
      assert.has_error(function() registry:register_failover(name, "vllm") end)
    end
    assert.error_matches(function() registry:register_failover({}, "vllm") end, "the LLM's name, a string, got a table")
    assert.error_matches(function() registry:register_failover("claude") end, "the provider's name, a string")
    assert.error_matches(function() registry:unregister("nobody") end, "'nobody' is not registered")
    assert.error_matches(function() registry:failover_for() end, "the LLM's name")
    assert.error_matches(function() registry.register({}, provider("x")) end, "call its methods with a colon")
    assert.error_matches(function() registry.register() end, "expected a registry")
    assert.same({}, registry:list_failovers())
  end)

  it("keeps many entries", function()
    registry:register(provider("p"))
    for i = 1, 2000 do registry:register_failover(("llm-%04d"):format(i), "p") end
    local list = registry:list_failovers()
    assert.equal(2000, #list)
    assert.equal("llm-0001", list[1].llm)
    assert.equal("llm-2000", list[2000].llm)
    registry:unregister("p")
    assert.same({}, registry:list_failovers())
  end)

  it("lets go of what was unregistered, and of itself", function()
    local gone = setmetatable({}, { __mode = "k" })
    do
      local value = provider("x")
      value.registry = registry -- a cycle
      gone[value] = true
      registry:register(value)
      registry:unregister("x")
      local other = deputy.registry()
      local cyclic = provider("y")
      cyclic.registry = other
      gone[cyclic] = true
      other:register(cyclic)
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(gone))
  end)

  it("can be closed, and says so afterwards", function()
    do
      local closed <close> = registry
      closed:register(provider("x"))
    end
    assert.error_matches(function() registry:providers() end, "this registry is closed")
    assert.error_matches(function() deputy.router(registry) end, "this registry is closed")
  end)
end)
