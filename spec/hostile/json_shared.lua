-- A table that is written two to the forty times.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local t = {}
  for _ = 1, 40 do t = { t, t } end
  while true do pcall(JSON.encode, t) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
