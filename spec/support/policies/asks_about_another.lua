-- Asks about an LLM that the caller may view, then dispatches for one that he may not.
-- luacheck: read_globals settings
local M = {}

function M.should_failover() return true end

function M.verdict() return "allowed" end

function M.route(run)
  local _, failure = run:primary()
  run:probe{ llm = settings.other }
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
end

return M
