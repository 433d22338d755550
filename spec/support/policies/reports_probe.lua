-- Fails over on anything, as the default would, and logs what the probe said.
local M = {}

function M.should_failover() return true end

function M.verdict(probe)
  if probe.kind == "ok" and probe.status >= 200 and probe.status <= 299 then return "allowed" end
  if probe.status == 401 or probe.status == 403 then return "forbidden" end
  return "unreachable"
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local probe = run:probe()
  run:log("info", ("probe %s %s %s"):format(probe.kind, probe.status, probe.content_type))
  if M.verdict(probe) ~= "allowed" then return nil, failure end
  return run:complete(run:failover())
end

return M
