-- Looks for what is not there.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  assert(io == nil and package == nil and debug == nil and dofile == nil and loadfile == nil and collectgarbage == nil)
  assert(os.execute == nil and os.exit == nil and os.getenv == nil and os.remove == nil and string.dump == nil)
  assert(load("return io")() == nil and load("return _G")() == _G)
  assert(not pcall(require, "io") and not pcall(require, "deputy.\0") and not pcall(require, "../x"))
  local env = {}
  assert(load("return _ENV", "x", "t", env)() == env)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
