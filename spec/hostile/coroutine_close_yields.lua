-- A kill that is held up by a __close that yields, resumed by the next run.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local kept = M.kept
  M.kept = nil
  if kept then
    while true do coroutine.resume(kept) end
  end
  M.kept = coroutine.create(function()
    local x <close> = setmetatable({}, { __close = coroutine.yield })
    while true do end
  end)
  coroutine.resume(M.kept)
  while true do coroutine.resume(M.kept) end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
