-- Lets the permit grow old before it dispatches.
-- luacheck: read_globals settings
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe()
  run:sleep(settings.sleepMs)
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
