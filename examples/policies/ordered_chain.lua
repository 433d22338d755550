-- Ordered chain: several local providers, one after the other, in the order of the configuration.
--
-- When to want it: a good local model that is sometimes busy or out of memory, and a small one that always runs. Let
-- both have the same LLM in "failoverFor". Each gets a probe of its own, so that a revocation stops the chain midway.
local judge = require "deputy.judge"

local LONGEST_MS = 20000 -- for all but the last: how long one may think before the next has its turn

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local providers = run:candidates()
  for i, provider in ipairs(providers) do
    if M.verdict(run:probe()) ~= "allowed" then break end
    local answer = run:complete(provider, i < #providers and { timeout_ms = LONGEST_MS } or nil)
    if answer then return answer end
  end
  return nil, failure
end

return M
