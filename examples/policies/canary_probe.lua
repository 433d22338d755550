-- Canary probe: first asks about an LLM that cannot exist. Who knows that one knows everything and means nothing.
--
-- When to want it: you do not trust what stands at the central's address. A parked domain, a test server or a proxy
-- that answers 200 to every path would otherwise allow every LLM. Costs one more probe for each failover.
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

local function is_catch_all(run)
  local canary = ("no-such-llm-%08x"):format(math.random(0, 0x7fffffff))
  local probe = run:probe{ llm = canary }
  return probe.kind ~= "ok" or probe.status < 400
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local provider = run:failover()
  if not provider then return nil, failure end
  if is_catch_all(run) then
    count("canary_was_allowed")
    return nil, failure
  end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
