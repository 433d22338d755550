-- Branches that loop, each after the other.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(run.first, run, { function() while true do end end, function() while true do end end })
  while true do
    pcall(run.first, run, { function() run:sleep(1) while true do end end, function() coroutine.yield() end })
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
