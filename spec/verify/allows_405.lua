-- A central that knows no HEAD is taken for one that allows.
-- verify: loose_verdict unpermitted
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover }

function M.verdict(probe)
  if probe.kind == "ok" and probe.status == 405 then return "allowed" end
  return judge.verdict(probe)
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local provider = run:failover()
  if not provider then return nil, failure end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
