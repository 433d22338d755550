-- A variable to be closed loops when its killed coroutine is closed by wrap.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local function f()
    local x <close> = setmetatable({}, { __close = function() while true do end end })
    while true do end
  end
  while true do pcall(coroutine.wrap(f)) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
