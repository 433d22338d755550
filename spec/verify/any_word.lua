-- verdict answers with true and false.
-- verify: loose_verdict
local M = {}

function M.should_failover(failure)
  local kind, status = failure.kind, failure.status or 0
  if kind == "status" then return status == 429 or status >= 500 end
  return kind == "connect" or kind == "dns" or kind == "tls" or kind == "timeout"
end

function M.verdict(probe)
  return probe.kind == "ok" and probe.status >= 200 and probe.status <= 299
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end
  local provider = run:failover()
  if not provider then return nil, failure end
  if not M.verdict(run:probe()) then return nil, failure end
  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
