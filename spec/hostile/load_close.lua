-- Loops in what is closed when loading is killed.
local x <close> = setmetatable({}, { __close = function() while true do end end })
while true do pcall(function() while true do end end) end
