-- Loaded by busted before the specs: finds the Lua sources and the module that was built.
-- DEPUTY_BUILD names the build directory ("build" when unset).
local build = os.getenv("DEPUTY_BUILD") or "build"
package.path = "./lua/?.lua;./lua/?/init.lua;./?.lua;" .. package.path
package.cpath = build .. "/?.so;" .. package.cpath
-- A sanitizer's preload (spec/run sets it) is for this process, not for what a spec starts.
require("luv").os_unsetenv("LD_PRELOAD")
