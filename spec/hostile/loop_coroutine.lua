-- Loops inside a coroutine inside pcall inside xpcall.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  xpcall(function()
    pcall(coroutine.wrap(function() repeat until false end))
    repeat until false
  end, function() repeat until false end)
  repeat until false
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
