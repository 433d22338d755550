-- Numbers as long as strings may be.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local s = ("9"):rep(65000)
  while true do
    local _ = tonumber(s), tonumber(s, 36), s + 1, s * s, tonumber("0x" .. ("f"):rep(60000))
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
