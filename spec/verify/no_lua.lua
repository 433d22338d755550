-- Not a program.
-- verify: load
local M = {
return M
