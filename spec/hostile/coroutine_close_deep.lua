-- Closes a coroutine whose __close closes another, hundreds deep and each with a deep stack: Lua counts C's stack in each
-- coroutine for itself.
local M = {}

local function deep(n, fn)
  if n == 0 then return fn() end
  return (("x"):gsub("x", function() deep(n - 1, fn) end))
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local last
  for _ = 1, 400 do
    local inner = last
    last = coroutine.create(function()
      local x <close> = setmetatable({}, { __close = function()
        if inner then deep(60, function() coroutine.close(inner) end) end
      end })
      coroutine.yield()
    end)
    coroutine.resume(last)
  end
  coroutine.close(last)
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
