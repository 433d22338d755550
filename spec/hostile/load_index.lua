-- The table it returns loops when it is looked into.
return setmetatable({}, { __index = function() while true do end end })
