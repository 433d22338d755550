-- Asks twice; the second answer is the one that counts.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe()
  run:probe()
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
