-- The reference as one page of HTML on stdout, made from what programmers read anyway: the public headers and the Lua
-- module's description for editors. Each declaration stands under the comment that belongs to it.
--   lua5.4 spec/docs.lua > index.html
local function read(path)
  local file = assert(io.open(path))
  local text = file:read("a")
  file:close()
  return text
end

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

local function escape(text)
  return (text:gsub('[&<>"]', ENTITIES))
end

local contents, body = {}, {}

local function add(...)
  body[#body + 1] = string.format(...)
end

local function heading(level, id, text)
  contents[#contents + 1] = ('<li class="l%d"><a href="#%s">%s</a></li>'):format(level, id, escape(text))
  add('<h%d id="%s">%s</h%d>', level, id, escape(text), level)
end

local function paragraphs(text)
  for paragraph in (text .. "\n\n"):gmatch("(.-)\n%s*\n") do
    if paragraph:find("%S") then add("<p>%s</p>", escape(paragraph)) end
  end
end

local function code(id, text)
  add('<pre%s>%s</pre>', id and (' id="' .. id .. '"') or "", escape(text))
end

-- ---- C --------------------------------------------------------------------------------------------------------------

local function comment_text(comment)
  local text = comment:gsub("^/%*%s?", ""):gsub("%s*%*/$", "")
  return (text:gsub("\n %* ?", "\n"):gsub("\n %*$", "\n"))
end

-- The end of the declaration that begins at `from`: a semicolon outside braces, or the end of a directive.
local function declaration_end(text, from)
  if text:sub(from, from) == "#" then
    local at = from
    repeat
      local stop = text:find("\n", at, true) or #text
      local continued = text:sub(stop - 1, stop - 1) == "\\"
      at = stop + 1
    until not continued
    return at - 2
  end
  local depth, at = 0, from
  while at <= #text do
    local char = text:sub(at, at)
    if text:sub(at, at + 1) == "/*" then
      at = select(2, text:find("*/", at, true))
    elseif char == "{" then
      depth = depth + 1
    elseif char == "}" then
      depth = depth - 1
    elseif char == ";" and depth == 0 then
      local rest = text:match("^ */%*.-%*/", at + 1) -- what is said behind it belongs to it
      return at + #(rest or "")
    end
    at = at + 1
  end
  return #text
end

local BORING = { "^#ifn?def ", "^#if ", "^#else", "^#endif", "^#include ", "^extern \"C\"", "^struct [%w_]+;$",
  "^#define DEPUTY_H$", "^#define DEPUTY_PROVIDER_H$", "^#define DEPUTY_API", "^#undef" }

local function is_boring(declaration)
  for _, pattern in ipairs(BORING) do
    if declaration:find(pattern) then return true end
  end
  return false
end

local function header(path)
  local text = read(path)
  heading(2, path, path)
  local at = 1
  while true do
    at = text:find("%S", at)
    if not at then break end
    if text:sub(at, at + 1) == "/*" then
      local stop = select(2, text:find("*/", at, true))
      local comment = text:sub(at, stop)
      local section = comment:match("^/%* %-%-%-%- (.-) %-+ %*/$")
      if section then
        heading(3, path .. "-" .. section:gsub("%W", "-"), section)
      else
        paragraphs(comment_text(comment))
      end
      at = stop + 1
    elseif text:sub(at, at) == "}" then
      at = at + 1
    elseif text:find('^extern "C" {', at) then
      at = at + #'extern "C" {'
    else
      local stop = declaration_end(text, at)
      local declaration = text:sub(at, stop)
      if not is_boring(declaration) then
        local name = declaration:match("(deputy_[%w_]+)%(") or declaration:match("(deputy_[%w_]+);$")
          or declaration:match("#define (DEPUTY_[%w_]+)")
        code(name, (declaration:gsub("^DEPUTY_API ", ""):gsub("\nDEPUTY_API ", "\n"):gsub(" +\\\n", " \\\n")))
      end
      at = stop + 1
    end
  end
end

-- ---- Lua ------------------------------------------------------------------------------------------------------------

local function module(path)
  heading(2, path, path)
  local said, tags = {}, {}
  local function flush(line)
    if #said > 0 then paragraphs(table.concat(said, "\n")) end
    if line then tags[#tags + 1] = line end
    if #tags > 0 then code(nil, table.concat(tags, "\n")) end
    said, tags = {}, {}
  end
  for line in io.lines(path) do
    local tag, words = line:match("^%-%-%-([@|].*)$"), line:match("^%-%-%- ?(.*)$")
    local part = line:match("^%-%- (Part %d.*)$")
    if part then
      flush()
      heading(3, path .. "-" .. part:gsub("%W", "-"), part)
    elseif tag then
      if not tag:find("^@meta") then tags[#tags + 1] = tag end
    elseif line:find("^%-%-%-%-") then
      flush()
    elseif words then
      said[#said + 1] = words
    elseif line:find("^function ") then
      flush((line:gsub(" end$", "")))
    elseif line:find("^%-%- ") then
      said[#said + 1] = line:sub(4)
    else
      flush()
    end
  end
  flush()
end

header "include/deputy.h"
header "include/deputy/provider.h"
header "include/deputy/managed.h"
module "lua/deputy/meta.lua"

local version = read("include/deputy.h"):match('#define DEPUTY_VERSION "(.-)"')
print(([[<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>deputy %s</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
pre { background: #f3f3f0; padding: .7rem 1rem; overflow-x: auto; font-size: 14px; line-height: 1.4 }
p { white-space: pre-line; margin: .8rem 0 .4rem }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc }
nav li.l3 { margin-left: 1.5rem } nav ul { list-style: none; padding: 0 }
</style>
<h1>deputy %s</h1>
<nav><ul>
%s
</ul></nav>
%s
</html>]]):format(version, version, table.concat(contents, "\n"), table.concat(body, "\n")))
