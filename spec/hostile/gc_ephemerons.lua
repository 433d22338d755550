-- Weak keys in an order that makes the collector take the square of their number.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local mt = {}
  local t = setmetatable({}, mt)
  mt.__mode = "k"
  pcall(setmetatable, t, { __mode = "k" })
  local all = {}
  for i = 1, 30000 do all[i] = {} end
  local last = all[1]
  for i = 2, #all do
    local j = random and math.random(i, #all) or i
    all[i], all[j] = all[j], all[i]
    t[last] = all[i]
    last = all[i]
  end
  local first = all[1]
  all = nil
  for _ = 1, 1e6 do local garbage = { first } end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
