-- Hedged: a primary that is slow gets company. Whoever answers first is the answer; the other is cancelled.
--
-- When to want it: answers have to begin soon, the local model is nearly as good, and you can spare its time. A primary
-- that fails is replaced at once, as ever; one that says no is believed, even when the local model is at work already.
local judge = require "deputy.judge"

local HEDGE_MS = 800 -- what nine of ten of your central's answers need

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

local FAILED = {} -- ends run:first like an answer does

local function ask_stand_in(run)
  local provider = run:failover()
  if provider and M.verdict(run:probe()) == "allowed" then return (run:complete(provider)) end
end

function M.route(run)
  local failure, asked
  local answer = run:first{
    function()
      local reply
      reply, failure = run:primary()
      local may_wait = failure and asked and M.should_failover(failure) -- the other one is still at it
      return reply or not may_wait and FAILED
    end,
    function()
      run:sleep(HEDGE_MS)
      asked = true
      return ask_stand_in(run)
    end,
  }
  if answer == FAILED then
    answer = not asked and M.should_failover(failure) and ask_stand_in(run)
  end
  if answer then return answer end
  return nil, failure
end

return M
