-- Decodes when there is no memory left.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local keep, text = {}, "[" .. ("{},"):rep(20000) .. "1]"
  while true do keep[#keep + 1] = JSON.decode(text) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
