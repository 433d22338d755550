-- Dispatches over and over until its budget ends it.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  run:primary()
  run:probe()
  while true do
    pcall(function() return run:complete(run:failover()) end)
  end
end

return M
