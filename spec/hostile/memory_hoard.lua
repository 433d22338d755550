-- Keeps what it makes for ever, until the policy has no memory left.
local M = {}

local kept = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  for i = 1, 80000 do kept[#kept + 1] = { i } end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
