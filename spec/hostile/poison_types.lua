-- Looks behind the run, the reply and the failure.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  for _, v in ipairs{ run, failure, run:failover() } do
    assert(getmetatable(v) == false)
    assert(not pcall(setmetatable, v, {}))
    pcall(function() v.status = 200 end)
    pcall(rawset, v, "status", 200)
    pcall(next, v)
    pcall(rawlen, v)
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
