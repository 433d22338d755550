-- Error objects that loop when they are shown, and errors in errors.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  error(setmetatable({}, {
    __tostring = function() while true do end end,
    __name = ("x"):rep(60000),
    __index = function() while true do end end,
  }))
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
