-- A replacement that loops, yields and fails.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(string.gsub, "aaa", "a", function() coroutine.yield() end)
  pcall(string.gsub, "aaa", "a", function() error("x") end)
  string.gsub("aaa", "a", function() while true do end end)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
