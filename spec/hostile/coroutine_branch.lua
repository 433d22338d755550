-- Branches of run:first look for each other's coroutine.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local seen
  run:first{
    function() seen = coroutine.running() run:sleep(1) end,
    function() if seen then coroutine.close(seen) end end,
  }
  assert(seen == nil)
  local co = coroutine.create(function() run:first{ function() return run:complete(run:failover()) end } end)
  coroutine.resume(co)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
