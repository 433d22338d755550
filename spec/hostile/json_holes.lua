-- Many times a large table that is empty.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local t = {}
  for i = 1, 60000 do t["k" .. i] = i end
  for k in pairs(t) do t[k] = nil end
  local list = {}
  for i = 1, 15000 do list[i] = t end
  while true do pcall(JSON.encode, list) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
