-- Fails after the probe, catches it, dispatches all the same, and fails for good.
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  run:primary()
  run:probe()
  pcall(error, "caught")
  pcall(function()
    run:complete(run:failover())
    error{ "not even a string" }
  end)
  run:complete(run:failover())
  error("after the probe")
end

return M
