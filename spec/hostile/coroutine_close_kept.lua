-- Keeps a killed coroutine and closes it in the next run.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local kept = M.kept
  M.kept = nil
  if kept then coroutine.close(kept) end
  M.kept = coroutine.create(function()
    local x <close> = setmetatable({}, { __close = function() while true do end end })
    while true do end
  end)
  coroutine.resume(M.kept)
  while true do end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
