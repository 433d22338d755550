-- Calls the run's functions on everything but a run.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  for _, self in ipairs{ 1, "x", {}, print, JSON.null, failure, run:failover(), coroutine.create(print) } do
    for _, name in ipairs{ "primary", "probe", "complete", "sleep", "first", "failover", "candidates", "log" } do
      assert(not pcall(run[name], self, {}))
    end
  end
  assert(not pcall(run.primary))
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
