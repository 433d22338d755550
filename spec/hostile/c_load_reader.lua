-- Readers that loop, fail, and are coroutines.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(load, coroutine.wrap(function() while true do coroutine.yield(" ") end end))
  pcall(load, error)
  load(function() while true do end end)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
