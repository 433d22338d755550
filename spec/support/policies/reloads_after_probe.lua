-- Asks the host (which listens to its log) for another policy after the probe, then dispatches.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe()
  run:log("info", "reload")
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
