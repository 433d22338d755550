-- Text that is deep, long and broken.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  while true do
    pcall(JSON.decode, ("["):rep(60000))
    pcall(JSON.decode, ('{"a":'):rep(12000))
    pcall(JSON.decode, "[" .. ("[],"):rep(20000) .. "[]]")
    pcall(JSON.decode, '"' .. ("\\u0000"):rep(10000))
    pcall(JSON.decode, ("9"):rep(60000))
    pcall(JSON.decode, "1e999999999")
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
