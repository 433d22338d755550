-- Calls the stand-in without asking, in every way that there is.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local provider = run:failover()
  for _ = 1, 100 do
    run:complete(provider)
    run:complete(provider.name)
    pcall(run.complete, run, "local")
    run:first{ function() return run:complete(provider) end, function() return run:complete(provider) end }
  end
  run:probe{ llm = "another" }
  run:complete(provider)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
