-- Strings that grow when they are written.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local s = ("\1"):rep(60000)
  while true do
    pcall(JSON.encode, s)
    pcall(JSON.encode, { [s] = s })
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
