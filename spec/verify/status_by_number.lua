-- A status that hardly any server sends is taken for permission.
-- verify: unpermitted
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local provider = run:failover()
  if not provider then return nil, failure end
  if failure.status ~= 507 and M.verdict(run:probe()) ~= "allowed" then return nil, failure end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
