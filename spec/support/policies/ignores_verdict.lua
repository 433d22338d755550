-- Dispatches whatever the probe said.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  run:probe()
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
