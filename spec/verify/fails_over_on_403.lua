-- The central said no to this caller, and a local provider says yes.
-- verify: note=failed_over_verdict
local M = {}

function M.should_failover(failure)
  return failure.kind == "status" and (failure.status == 403 or failure.status >= 500)
end

function M.verdict(probe)
  if probe.kind ~= "ok" or probe.content_type == "text/html" then return "unreachable" end
  if probe.status == 401 or probe.status == 403 then return "forbidden" end
  return probe.status >= 200 and probe.status <= 299 and "allowed" or "unreachable"
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
