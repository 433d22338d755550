-- The default policy: when a local provider may stand in for a central LLM.
--
-- A run is one request. Every call on it that waits (run:primary, run:probe, run:complete) gives way to other runs and
-- comes back with the answer. Whatever this script does, two things are kept by the engine: no local provider is
-- called without a clean 2xx probe of this very run, and the error that the caller sees is the primary's own.
local M = {}

-- Failures of the primary that say "the central cannot answer", not "the answer is no".
local UNAVAILABLE_KIND = {
  connect = true, dns = true, tls = true, timeout = true,
  malformed = true, in_band = true, cut = true, error = true,
}
local UNAVAILABLE_STATUS = { [408] = true, [425] = true, [429] = true }

local function is_unavailable(status)
  return UNAVAILABLE_STATUS[status] or (status >= 500 and status <= 599)
end

local ON_ANY = settings.failoverOn == "any"

--- May somebody else answer in the primary's place after this failure?
function M.should_failover(failure)
  local kind = failure.kind
  if kind == "cancelled" or kind == "deadline" then return false end
  if ON_ANY then return true end
  if kind == "status" then return is_unavailable(failure.status) end
  if kind == "in_band" and (failure.status or 0) >= 300 then return is_unavailable(failure.status) end
  return UNAVAILABLE_KIND[kind] == true
end

--- What a probe means: "allowed", "forbidden" or "unreachable". Only a clean 2xx allows.
function M.verdict(probe)
  if probe.kind ~= "ok" then return "unreachable" end
  local status = probe.status
  if status >= 200 and status <= 299 then return "allowed" end
  if status == 401 or status == 403 then return "forbidden" end
  return "unreachable"
end

--- One request on its way: a reply, or nil and the primary's failure.
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
