-- pcall inside pcall inside pcall, 190 deep, each of which loops after the one inside.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local function nest(n)
    if n > 0 then pcall(nest, n - 1) end
    while true do end
  end
  nest(180)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
