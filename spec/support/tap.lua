-- busted's output as TAP for spec/run, written as each test ends. Unlike busted's own it survives a file that does not
-- parse, and says why.
local busted = require "busted"
local pretty = require "pl.pretty"

return function()
  local handler = require "busted.outputHandlers.base"()
  local count = 0

  local function say(...)
    io.write(string.format(...), "\n")
    io.flush()
  end

  local function comment(text)
    say("# %s", (text:gsub("\n", "\n# ")))
  end

  local function fail(failed)
    local trace = failed.trace or failed.element.trace or {}
    local message = failed.message
    if type(message) ~= "string" then message = pretty.write(message) end
    say("not ok %d - %s", count, failed.name)
    comment(message)
    if trace.traceback then comment(trace.traceback) end
  end

  local function last(list) return list[#list] end

  busted.subscribe({ "test", "start" }, function(element)
    say("# at line %d: %s", element.trace and element.trace.currentline or 0, handler.getFullName(element))
    return nil, true
  end)

  busted.subscribe({ "test", "end" }, function(_, _, status)
    count = count + 1
    if status == "success" then
      say("ok %d - %s", count, last(handler.successes).name)
    elseif status == "pending" then
      local skipped = last(handler.pendings)
      local why = tostring(skipped.message or "no reason given"):gsub("^%S+:%d+: ", "")
      say("ok %d - # SKIP %s: %s", count, skipped.name, why)
    else
      fail(last(status == "error" and handler.errors or handler.failures))
    end
    return nil, true
  end)

  -- Outside a test: in a file, a describe, a before_each.
  busted.subscribe({ "error" }, function(element)
    if element.descriptor ~= "it" then
      count = count + 1
      fail(last(handler.errors))
    end
    return nil, true
  end)

  busted.subscribe({ "suite", "end" }, function()
    say("1..%d", count)
    return nil, true
  end)

  return handler
end
