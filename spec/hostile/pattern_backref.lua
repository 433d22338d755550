-- Back references to long captures.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  string.find(("a"):rep(60000), "(.-)%1%1b")
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
