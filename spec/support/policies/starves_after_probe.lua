-- Eats memory until there is no more, catches that, and dispatches.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe()
  pcall(function()
    local hoard = {}
    while true do hoard[#hoard + 1] = ("x"):rep(65536) .. #hoard end
  end)
  run:complete(run:failover())
  return nil, failure
end

return M
