-- lua/deputy/meta.lua against what is really there, in both directions.
local deputy = require "deputy"
local tmp = require "spec.support.tmp"

local text = tmp.read("lua/deputy/meta.lua")
local host, policy = text:match("^(.*)%-%- Part 2: policies(.*)$")

-- The members that the stubs name, for each class: functions of its local table and ---@field lines.
local function documented(part)
  local classes, class = {}, nil
  local tables = {}
  for line in part:gmatch("[^\n]+") do
    local name = line:match("^%-%-%-@class ([%w_.]+)")
    local field = line:match("^%-%-%-@field ([%w_]+)")
    local variable = line:match("^local (%w+) = {}$")
    local owner, method = line:match("^function (%w+)[.:]([%w_]+)%(")
    if name then
      class = classes[name] or {}
      classes[name] = class
    elseif field then
      class[field] = true
    elseif variable then
      tables[variable] = class
    elseif owner then
      local members = tables[owner] or classes[owner] or {}
      tables[owner] = members
      members[method] = true
    end
  end
  return classes, tables
end

local function names(t)
  local list = {}
  for name in pairs(t) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function methods(object)
  local index = getmetatable(object).__index
  if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
  return index
end

describe("meta.lua", function()
  local classes = documented(host)
  local registry = deputy.registry()
  local router = deputy.router(registry, { policy = "lua/router.lua", probe = function() return 200 end,
    bearer_token = "tok" })

  it("is Lua that loads", function()
    assert.is_table(assert(load(text, "@lua/deputy/meta.lua", "t", {}))())
  end)

  it("names what the module has, and nothing else", function()
    assert.same(names(deputy), names(classes["deputy"]))
  end)

  it("names the methods of a registry, a router and a provider, and nothing else", function()
    assert.same(names(methods(registry)), names(classes["deputy.Registry"]))
    assert.same(names(methods(router)), names(classes["deputy.Router"]))
    local provider = names(classes["deputy.Provider"])
    assert.same({ "complete", "is_available", "list_models", "name" }, provider)
    assert.same({ "complete", "is_available", "list_models" }, names(methods(deputy.echo("x"))))
    assert.equal("x", deputy.echo("x").name)
  end)

  -- An unknown option is an error: so each documented one is tried, with a value of a type that none takes.
  it("names the options of a router, and no others", function()
    local function known(option, make)
      local _, message = pcall(make, option)
      return not message:find("unknown option", 1, true)
    end
    local function try(option) return deputy.router(registry, { [option] = coroutine.create(print) }) end
    local function try_in(table_name)
      return function(option) return deputy.router(registry, { [table_name] = { [option] = print } }) end
    end
    for option in pairs(classes["deputy.RouterOptions"]) do assert.is_true(known(option, try), option) end
    for option in pairs(classes["deputy.Timeouts"]) do assert.is_true(known(option, try_in("timeouts")), option) end
    for option in pairs(classes["deputy.Limits"]) do assert.is_true(known(option, try_in("limits")), option) end
    for option in pairs(classes["deputy.OpenaiOptions"]) do
      assert.is_true(known(option, function(name) return deputy.openai{ [name] = print } end), option)
    end
    assert.is_false(known("nonsense", try))
    assert.is_false(known("nonsense", try_in("limits")))
  end)

  it("names what the C header calls timeouts and limits", function()
    local header = tmp.read("include/deputy.h")
    for class, struct in pairs{ ["deputy.Timeouts"] = "deputy_timeouts", ["deputy.Limits"] = "deputy_limits" } do
      local fields = {}
      for name in header:match("typedef struct " .. struct .. " {(.-)}"):gmatch("[%w_]+%s+([%w_]+);") do
        fields[name] = true
      end
      assert.same(names(fields), names(classes[class]))
    end
  end)

  it("names what is in a result, a reply, a failure and a trace, and nothing else", function()
    local function within(value, class, hidden)
      for field in pairs(value) do assert.is_true(classes[class][field], class .. "." .. field) end
      for _, field in ipairs(hidden or {}) do assert.is_not_nil(value[field]) end
    end
    local echo = deputy.echo("echo")
    registry:register(echo)
    registry:register_failover("claude", "echo")
    local result = router:run("claude", function() error{ status = 503, kind = "status" } end, function() return 1 end)
    within(result, "deputy.Result", { "trace" })
    for _, leg in ipairs(result.trace) do within(leg, "deputy.Trace") end
    within(echo:complete("{}"), "deputy.Reply")
    local _, failure, reply = echo:complete("nonsense")
    within(failure, "deputy.Failure")
    within(reply, "deputy.Reply")
    for _, field in ipairs{ "status", "kind", "code", "message" } do assert.is_not_nil(failure[field], field) end
  end)

  it("names what a policy finds", function()
    local run, tables = documented(policy)
    local lines = {}
    local function check(what, members, given)
      for _, member in ipairs(names(members)) do
        -- absent in this very case, so only that it can be asked for
        if not (given and given[member]) then
          lines[#lines + 1] = ("if %s.%s == nil then log('error', %q) end"):format(what, member, what .. "." .. member)
        end
      end
    end
    check("run", run["deputy.Run"])
    check("JSON", tables.JSON)
    lines[#lines + 1] = "local _, failure = run:primary()"
    check("failure", run["deputy.PolicyFailure"])
    lines[#lines + 1] = "local probe = run:probe()"
    check("probe", run["deputy.ProbeAnswer"], { content_type = true })
    lines[#lines + 1] = "local candidate = run:failover()"
    check("candidate", run["deputy.Candidate"])
    lines[#lines + 1] = "local reply = run:complete(candidate)"
    check("reply", run["deputy.PolicyReply"])
    lines[#lines + 1] = "log('info', type(settings) .. type(JSON.null))"
    lines[#lines + 1] = "return reply"
    local path = tmp.write(nil, "policy.lua", "return { route = function(run) " .. table.concat(lines, "\n") .. " end,"
      .. "should_failover = function() end, verdict = function() end }")
    local logged = {}
    local watched = deputy.router(registry, {
      policy = path, bearer_token = "tok", probe = function() return 200 end,
      on_log = function(level, line) logged[#logged + 1] = level .. " " .. line end,
    })
    registry:register{ name = "lua", complete = function() return "{}" end }
    registry:register_failover("meta", "lua")
    local ok, failure = watched:complete{ llm = "meta", body = "{}" }
    -- a central that is not there has neither a status nor a Retry-After
    assert.same({ "error policy: failure.retry_after", "error policy: failure.status", "info policy: tableuserdata" },
      logged)
    assert.is_truthy(ok, failure)
  end)
end)
