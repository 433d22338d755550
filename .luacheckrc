std = "lua54"
max_line_length = 120
-- On purpose: unreachable code, endless loops, poisoned globals; what is no Lua.
exclude_files = { "spec/hostile", "spec/verify/no_lua.lua" }

files["spec/**/*_spec.lua"] = { std = "+busted" }
files["spec/support/helper.lua"] = { std = "+busted" }

-- What the engine puts into a policy's environment.
local policy = { read_globals = { "settings", "JSON", "log", "now", "time", "random", "count", "state" } }
files["lua/router.lua"] = policy
files["examples/policies"] = policy
files["lua/deputy/retry.lua"] = policy
files["lua/deputy/breaker.lua"] = policy
files["spec/verify"] = policy

-- Stubs for editors: everything is declared there and nothing is used.
files["lua/deputy/meta.lua"] = { ignore = { "111", "112", "113", "131", "211", "212", "241" } }
