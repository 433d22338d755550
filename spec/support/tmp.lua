-- Temporary directories that are gone when the spec run ends.
--   local tmp = require "spec.support.tmp"
--   local dir = tmp.dir()                        a fresh directory (0700)
--   local path = tmp.write(dir, "a.json", text)  writes a file, returns its path; dir nil: a fresh one
--   tmp.read(path)                               the whole file
--   tmp.remove(dir)                              at once instead of at exit
local uv = require "luv"
local lfs = require "lfs"

local tmp = {}
local made = {}

function tmp.dir()
  local base = os.getenv("TMPDIR") or "/tmp"
  local path = assert(uv.fs_mkdtemp(base .. "/deputy-spec-XXXXXX"))
  made[path] = true
  return path
end

function tmp.write(dir, name, content)
  local path = (dir or tmp.dir()) .. "/" .. name
  local file = assert(io.open(path, "wb"))
  assert(file:write(content))
  assert(file:close())
  return path
end

function tmp.read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("a")
  file:close()
  return content
end

local function remove_tree(path)
  local kind = lfs.symlinkattributes(path, "mode")
  if kind == "directory" then
    for name in lfs.dir(path) do
      if name ~= "." and name ~= ".." then remove_tree(path .. "/" .. name) end
    end
    lfs.rmdir(path)
  elseif kind then
    os.remove(path)
  end
end

function tmp.remove(dir)
  if not made[dir] then return end
  made[dir] = nil
  remove_tree(dir)
end

-- Runs when the Lua state closes.
tmp.at_exit = setmetatable({}, { __gc = function()
  for dir in pairs(made) do remove_tree(dir) end
end })

return tmp
