-- Plain data as one line of Lua text, and back. Binary strings, integers and any key survive exactly, which JSON
-- does not promise. Both ends are our own spec processes.
local wire = {}

local function write(value, out)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = string.format("%q", value):gsub("\\\n", "\\n"):gsub("\r", "\\r")
  elseif kind == "number" then
    out[#out + 1] = string.format("%q", value)
  elseif kind == "boolean" or kind == "nil" then
    out[#out + 1] = tostring(value)
  elseif kind == "table" then
    out[#out + 1] = "{"
    for k, v in pairs(value) do
      out[#out + 1] = "["
      write(k, out)
      out[#out + 1] = "]="
      write(v, out)
      out[#out + 1] = ","
    end
    out[#out + 1] = "}"
  else
    error("a peer takes plain data only, not a " .. kind, 0)
  end
end

-- One line without its line end. Raises on functions, userdata and threads.
function wire.encode(value)
  local out = {}
  write(value, out)
  return table.concat(out)
end

-- The value of a line that `encode` wrote.
function wire.decode(line)
  return assert(load("return " .. line, "=wire", "t", {}))()
end

return wire
