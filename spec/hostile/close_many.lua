-- Thousands of variables to be closed, under a handler that each of their errors would call.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local mt = { __close = function() error("no") end }
  local function deep(n)
    local x <close> = setmetatable({}, mt)
    deep(n + 1)
    return x
  end
  while true do
    xpcall(deep, function(m) while true do error(m) end end, 1)
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
