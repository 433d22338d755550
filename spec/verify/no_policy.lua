-- A policy that does not say what a probe means.
-- verify: load
return { route = function(run) return run:primary() end, should_failover = function() return false end }
