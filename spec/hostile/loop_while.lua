-- Loops for ever before it asks anybody.
local M = {}

function M.route(run)
  while true do end
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
