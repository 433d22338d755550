-- An error in the handler of an error in the handler.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local function handler(m) error(m) end
  while true do xpcall(error, handler, "x") end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
