-- Looks for the run's own coroutine to close or resume it.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local own = coroutine.running()
  coroutine.wrap(function()
    pcall(coroutine.close, own)
    pcall(coroutine.resume, own)
  end)()
  assert(own == nil)
  coroutine.yield(own)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
