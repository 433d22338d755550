-- Looks for the main coroutine while it is loaded.
local own = coroutine.running()
assert(own == nil)
coroutine.yield()
