-- Writes C source that holds Lua files as text: lua5.4 embed.lua NAME=FILE ... > embedded.c
-- They travel with the library, so that `require "deputy.retry"` in a policy needs no file and never meets another
-- version.
-- Comments and indentation stay at home, the lines keep their numbers. Not where a long string may hold such a line.
local function bare(text)
  if text:find("%[=*%[") then return text end
  return (("\n" .. text):gsub("\n[ \t]+", "\n"):gsub("\n%-%-[^\n]*", "\n"):sub(2))
end

local function quoted(text)
  local lines = {}
  for line in text:gmatch("[^\n]*\n?") do
    if line ~= "" then
      lines[#lines + 1] = '    "' .. line:gsub('[%c"\\?\128-\255]', function(c)
        return ("\\%03o"):format(c:byte())
      end) .. '"'
    end
  end
  return table.concat(lines, "\n")
end

print('#include "lua/lua_embedded.h"\n\n#include <stddef.h>\n\nconst struct embedded lua_embedded[] = {')
for _, argument in ipairs(arg) do
  local name, path = argument:match("^([^=]+)=(.+)$")
  local file = assert(io.open(path, "rb"))
  local text = bare(file:read("a"))
  file:close()
  print(('    {"%s",\n%s,\n     %d},'):format(name, quoted(text), #text))
end
print("    {NULL, NULL, 0},\n};")
