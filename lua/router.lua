-- The default policy: when a local provider may stand in for a central LLM.
--
-- A run is one request. Every call on it that waits (run:primary, run:probe, run:complete) gives way to other runs and
-- comes back with the answer. Whatever this script does, two things are kept by the engine: no local provider is
-- called without a clean 2xx probe of this very run, and the error that the caller sees is the primary's own.
--
--   1. The primary is asked; when it fails in passing, once more after a moment.
--   2. What it answers is the outcome, and so is an error that is its verdict on the request or on the caller.
--   3. When it cannot answer, the central is asked whether the caller may still see the LLM.
--   4. Only if so, a local provider stands in. When that fails too, the outcome is the primary's error.
--
-- After several failures in a row 3 and 4 come first for a while, so that nobody waits for a primary that is down.
local retry = require "deputy.retry"
local breakers = require "deputy.breaker"

local M = {}

--- What may stand in policy.settings.
M.settings = {
  failoverOn = { default = "unavailable", one_of = { "unavailable", "any" } },
  retries = { default = 1, from = 0, to = 3 },
  breaker = {
    off = true, -- "breaker": false
    fields = {
      failures = { default = 5, from = 1, to = 1000 },
      openMs = { default = 10000, from = 1, to = 3600000 },
    },
  },
}

local options = require("deputy.settings").read(settings, M.settings)
local on_any, retries = options.failoverOn == "any", options.retries
local breaker = options.breaker and breakers.new(options.breaker)

-- Failures of the primary that say "the central cannot answer", not "the answer is no".
local UNAVAILABLE_KIND = {
  connect = true, dns = true, tls = true, timeout = true,
  malformed = true, cut = true, error = true,
}
local UNAVAILABLE_STATUS = { [408] = true, [425] = true, [429] = true }

-- An error inside a reply has no status of its own; these are about the request all the same.
local VERDICT_CODE = {
  context_length_exceeded = true, content_policy_violation = true, content_filter = true,
  invalid_request_error = true, invalid_prompt = true,
}

local function is_unavailable(status)
  return UNAVAILABLE_STATUS[status] or (status >= 500 and status <= 599)
end

--- May somebody else answer in its place after this failure? `strictly`: even if failoverOn is "any", not after any.
function M.should_failover(failure, strictly)
  local kind = failure.kind
  if UNAVAILABLE_KIND[kind] then return true end
  if kind == "cancelled" or kind == "deadline" then return false end
  if on_any and not strictly then return true end
  if kind == "status" then return is_unavailable(failure.status) end
  if kind == "in_band" then
    local status = failure.status or 0
    if status >= 300 then return is_unavailable(status) end
    return not VERDICT_CODE[failure.code]
  end
  return false
end

-- A captive portal or a catch-all page says 200 to everything.
local IS_PAGE = { ["text/html"] = true, ["application/xhtml+xml"] = true }

--- What a probe means: "allowed", "forbidden" or "unreachable". Only a clean 2xx allows.
function M.verdict(probe)
  if probe.kind ~= "ok" then return "unreachable" end
  local status = probe.status
  if status >= 200 and status <= 299 then
    return IS_PAGE[probe.content_type] and "unreachable" or "allowed"
  end
  if status == 401 or status == 403 then return "forbidden" end
  return "unreachable"
end

-- A local provider's reply, or nil. Each call of it needs a probe of its own, made just now.
local function ask_stand_in(run)
  local provider = run:failover()
  if provider and M.verdict(run:probe()) == "allowed" then
    return (run:complete(provider))
  end
end

local function ask_primary(run)
  local reply, failure = run:primary()
  for _ = 1, retries do
    local ms = failure and retry.wait_ms(failure, run, retries)
    if not ms then break end
    run:sleep(ms)
    reply, failure = run:primary()
  end
  return reply, failure
end

--- One request on its way: a reply, or nil and the primary's failure.
function M.route(run)
  local llm = breaker and run.llm
  local stand_in_first = breaker and breaker:is_open(llm)
  local answer = stand_in_first and ask_stand_in(run)
  if answer then return answer end

  local reply, failure = ask_primary(run)
  if breaker then
    local is_down = failure and M.should_failover(failure, true) -- a verdict on one caller is none on the others
    if is_down then breaker:failed(llm) elseif reply or failure.kind == "status" then breaker:succeeded(llm) end
  end
  if reply then return reply end

  answer = not stand_in_first and M.should_failover(failure) and ask_stand_in(run)
  if answer then return answer end
  return nil, failure
end

return M
