-- Asks all local providers at once, each with a probe of its own; whoever answers first is the answer.
-- verify: depth=2
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local asked = {}
  for i, provider in ipairs(run:candidates()) do
    asked[i] = function()
      if M.verdict(run:probe()) == "allowed" then return (run:complete(provider)) end
    end
  end
  local answer = #asked > 0 and run:first(asked)
  if answer then return answer end
  return nil, failure
end

return M
