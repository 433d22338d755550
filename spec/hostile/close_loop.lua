-- A variable to be closed loops while the kill unwinds.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local x <close> = setmetatable({}, { __close = function() while true do end end })
  while true do
    local y <close> = setmetatable({}, { __close = function() error("no") end })
    local z <close> = setmetatable({}, { __close = function() while true do end end })
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
