-- What the default policy makes of a failure and of a probe, for scripts that change something else.
--
--   local judge = require "deputy.judge"
--   M.should_failover, M.verdict = judge.should_failover, judge.verdict
--
-- lua/router.lua spells both out, to be read and edited; these two say the same.
local M = {}

local UNAVAILABLE_KIND = {
  connect = true, dns = true, tls = true, timeout = true,
  malformed = true, in_band = true, cut = true, error = true,
}
local UNAVAILABLE_STATUS = { [408] = true, [425] = true, [429] = true }
local VERDICT_CODE = {
  context_length_exceeded = true, content_policy_violation = true, content_filter = true,
  invalid_request_error = true, invalid_prompt = true,
}

local function is_unavailable(status)
  return UNAVAILABLE_STATUS[status] or (status >= 500 and status <= 599)
end

--- Does this failure say "the central cannot answer", and not "the answer is no"?
function M.should_failover(failure)
  local kind, status = failure.kind, failure.status or 0
  if kind == "status" then return is_unavailable(status) end
  if kind == "in_band" and status >= 300 then return is_unavailable(status) end
  if kind == "in_band" then return not VERDICT_CODE[failure.code] end
  return UNAVAILABLE_KIND[kind] == true
end

--- "allowed", "forbidden" or "unreachable". Only a clean 2xx allows, and no page is one.
function M.verdict(probe)
  if probe.kind ~= "ok" then return "unreachable" end
  local status = probe.status
  if status == 401 or status == 403 then return "forbidden" end
  if status < 200 or status > 299 then return "unreachable" end
  local content_type = probe.content_type
  if content_type == "text/html" or content_type == "application/xhtml+xml" then return "unreachable" end
  return "allowed"
end

return M
