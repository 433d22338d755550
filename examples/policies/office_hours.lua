-- Office hours: a local provider stands in only on working days from 8 to 18 o'clock, local time.
--
-- When to want it: the machine does something else by night, or nobody is there to look at what a small model says.
local judge = require "deputy.judge"

local FROM, TO = 8, 18

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

local function is_open()
  local t = os.date("*t")
  return t.wday >= 2 and t.wday <= 6 and t.hour >= FROM and t.hour < TO
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) or not is_open() then return nil, failure end

  local provider = run:failover()
  if not provider then return nil, failure end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
