-- Loops with goto.
local M = {}

function M.route(run)
  ::again::
  goto again
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
