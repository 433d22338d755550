-- Answers with the reply of an earlier run.
local M = {}
local reply_of_another

function M.route(run)
  local reply, failure = run:primary()
  if reply then
    reply_of_another = reply
    return reply
  end
  if reply_of_another then return reply_of_another end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
