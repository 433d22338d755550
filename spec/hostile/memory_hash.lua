-- A table of many keys.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local t = {}
  for i = 1, 1e7 do t["k" .. i] = { i } end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
