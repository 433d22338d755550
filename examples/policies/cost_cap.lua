-- Cost cap: a stand-in answers at most so many requests an hour.
--
-- When to want it: the "local" provider is an API that you pay for, and a central that is down for a weekend shall not
-- cost more than you meant to spend.  "settings": { "perHour": 200 }
local judge = require "deputy.judge"

local M = { should_failover = judge.should_failover, verdict = judge.verdict }

M.settings = { perHour = { default = 100, from = 1, to = 1000000 } }

local options = require("deputy.settings").read(settings, M.settings)

local HOUR_S = 3600
local hour_began, used = 0, 0

-- Counted before it is asked: many runs are under way at once, and a call that fails may cost as much.
local function take_one()
  if now() - hour_began >= HOUR_S then hour_began, used = now(), 0 end
  if used >= options.perHour then return false end
  used = used + 1
  return true
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end

  local provider = run:failover()
  if not provider then return nil, failure end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  if not take_one() then
    count("cost_cap_reached")
    return nil, failure
  end

  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
