-- Writes to the log for ever.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  while true do
    run:log("error", ("x"):rep(60000))
    log("info", "\27[2J\n\n")
    print(("y"):rep(60000))
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
