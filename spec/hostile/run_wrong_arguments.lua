-- Calls them with numbers and tables that make no sense.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local odd = { 0 / 0, math.huge, -math.huge, -1, 0, 1e300, math.maxinteger, math.mininteger, 0.5,
    "", "x", ("x"):rep(60000), {}, true }
  for _, v in ipairs(odd) do
    if v ~= 0 and v ~= 0.5 then pcall(run.sleep, run, v) end
    pcall(run.probe, run, { timeout_ms = v })
    pcall(run.probe, run, { llm = v })
    pcall(run.probe, run, v)
    pcall(run.complete, run, v)
    pcall(run.complete, run, run:failover(), { timeout_ms = v })
    pcall(run.first, run, v)
    pcall(run.first, run, { v })
    pcall(run.log, run, v, v)
    pcall(log, v, v)
    pcall(count, v, v)
    pcall(count, "x", v)
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
