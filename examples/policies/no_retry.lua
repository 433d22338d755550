-- No retry: the primary is asked once, and a stand-in follows at once.
--
-- When to want it: each call of the primary costs money even when it fails, or your callers would rather have the local
-- model's answer now than the central's in a moment. (The default script does the same with
-- "settings": { "retries": 0, "breaker": false }; this is the shortest script there is, to begin your own from.)
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

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
