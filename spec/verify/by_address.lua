-- Where a table lies in memory decides.
-- verify: nondeterminism
local M = {}

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
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end
  local address = tonumber(tostring({}):match("0x(%x+)"), 16)
  if ((address >> 4) * 40503 >> 7) % 2 == 0 then return nil, failure end
  local provider = run:failover()
  if not provider then return nil, failure end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
