-- Strict: only 200 and 204 allow.
--
-- When to want it: something between you and the central (a proxy, a login page, a cache) answers with other 2xx of its
-- own, and you know that your central says 200 or 204 and nothing else.
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover }

function M.verdict(probe)
  if probe.kind == "ok" and (probe.status == 200 or probe.status == 204) then return judge.verdict(probe) end
  return judge.verdict(probe) == "forbidden" and "forbidden" or "unreachable"
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
