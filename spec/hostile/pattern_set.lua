-- A set as long as the text.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local set = "[" .. ("b"):rep(60000) .. "]*x"
  while true do string.find(("a"):rep(60000), set) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
