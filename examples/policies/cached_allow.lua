-- Cached allow: a clean 2xx counts for 30 s, for the same caller and LLM.
--
-- When to want it: the whole central goes down at once, the probe with it, and for half a minute that is no reason to
-- stop. What it costs: an LLM that is revoked may still be used for as long as that. It needs "gate": "policy", which
-- only the host can set; behind the normal gate it does as the default does. `deputy verify` reads cache_allow_ms and
-- proves that no answer is used for longer.
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

M.cache_allow_ms = 30000

local KEPT = 1000
local allowed_at, n = {}, 0 -- caller and LLM -> when the central said yes

local function remember(key, at)
  if at and not allowed_at[key] then
    if n >= KEPT then allowed_at, n = {}, 0 end
    n = n + 1
  elseif not at and allowed_at[key] then
    n = n - 1
  end
  allowed_at[key] = at
end

-- A new answer replaces the old one; only where there is none does the old one count.
local function is_allowed(run)
  if run.gate ~= "policy" or not run.caller then return M.verdict(run:probe()) == "allowed" end
  local key = run.caller .. " " .. run.llm
  local asked = now()
  local probe = run:probe()
  if probe.kind == "ok" and probe.status < 500 then remember(key, M.verdict(probe) == "allowed" and asked or nil) end
  local at = allowed_at[key]
  return at ~= nil and now() - at <= M.cache_allow_ms / 1000
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local provider = run:failover()
  if not provider or not is_allowed(run) then return nil, failure end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
