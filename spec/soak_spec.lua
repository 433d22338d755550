-- A few seconds of what make soak does for ten minutes: everything at once, and a reload twice a second.
local shell = require "spec.support.shell"

describe("deputy serve", function()
  it("answers each as it must, whatever the others do and however often it reloads", function()
    local r = shell.run{ "lua5.4", "spec/soak_serve.lua", timeout_ms = 120000,
      env = { SOAK_SECONDS = "8", SOAK_RELOAD_S = "0.4", SOAK_PATIENCE_MS = "600", LD_PRELOAD = false } }
    assert.equal(0, r.status, r.stdout .. r.stderr)
  end)
end)
