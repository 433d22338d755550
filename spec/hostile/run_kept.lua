-- Uses the run and the reply of an earlier request.
local M = {}

local kept

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local earlier = kept
  kept = run
  if earlier and earlier ~= run then
    pcall(function() return earlier:complete(earlier:failover()) end)
    pcall(function() return earlier:primary() end)
    earlier.x = 1
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
