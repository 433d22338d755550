-- Never asks the primary, and says that all is well.
local M = {}

function M.route(run)
  return true
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
