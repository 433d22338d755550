-- A comparison that loops, lies, yields and is a function of C.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local t = {}
  for i = 1, 100000 do t[i] = i * 7919 % 100003 end
  pcall(table.sort, t, function() return true end)
  pcall(table.sort, t, coroutine.yield)
  pcall(table.sort, t, rawequal)
  pcall(table.sort, t, function() run:probe() end)
  pcall(table.sort, t)
  table.sort(t, function() while true do end end)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
