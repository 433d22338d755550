-- What does not allow has no word; the engine takes it for "unreachable".
-- verify: note=vague_verdict
local M = {}

function M.should_failover(failure)
  return failure.kind ~= "status" or failure.status >= 500
end

function M.verdict(probe)
  if probe.kind == "ok" and probe.status == 204 then return "allowed" end
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end
  local provider = run:failover()
  if not provider or M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  reply = run:complete(provider)
  if reply then return reply end
  return nil, failure
end

return M
