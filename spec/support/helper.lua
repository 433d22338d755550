-- Loaded by busted before the specs: finds the Lua sources and the module that was built.
-- DEPUTY_BUILD names the build directory ("build" when unset).
local build = os.getenv("DEPUTY_BUILD") or "build"
package.path = "./lua/?.lua;./lua/?/init.lua;./?.lua;" .. package.path
package.cpath = build .. "/?.so;" .. package.cpath
