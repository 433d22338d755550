-- While the breaker is open nobody is asked.
-- verify: unpermitted depth=2
local M = {}
local failures = 0

function M.should_failover(failure)
  local kind, status = failure.kind, failure.status or 0
  if kind == "status" then return status == 429 or status >= 500 end
  return kind == "connect" or kind == "dns" or kind == "tls" or kind == "timeout"
end

function M.verdict(probe)
  if probe.kind ~= "ok" or probe.content_type == "text/html" then return "unreachable" end
  if probe.status == 401 or probe.status == 403 then return "forbidden" end
  return probe.status >= 200 and probe.status <= 299 and "allowed" or "unreachable"
end

function M.route(run)
  local provider = run:failover()
  if failures >= 3 and provider then
    local answer = run:complete(provider)
    if answer then return answer end
  end
  local reply, failure = run:primary()
  failures = reply and 0 or math.min(failures + 1, 3)
  if reply then return reply end
  return nil, failure
end

return M
