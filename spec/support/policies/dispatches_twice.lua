-- Uses one permit for two dispatches.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe()
  local first = run:complete(run:failover())
  local answer = first or run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
