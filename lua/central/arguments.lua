-- Arguments of commands that are programs in Lua, on lua-argparse: said in the words of the other commands, and with
-- secrets that come from files.
--   local parser = arguments.parser("deputy contract", "What it does.")     an argparse parser
--   local options, status = arguments.parse(parser, args)     options, or nil and the exit code, everything being said
--   arguments.point_to_help("deputy contract")    says on stderr how to learn more
--   arguments.secret(options, "token", host)    the value of --token, or what is in --token-file; nil and what is wrong
local nearest = require "deputy.nearest"

local arguments = {}

local MAX_SECRET = 8192

-- argparse would end the program by itself, and turns what is raised into text: so who asked is kept here.
local asked

local function with_help(command)
  return command:add_help{ action = function()
    asked = command
    error("help was asked for", 0)
  end }
end

function arguments.parser(name, description)
  local parser = require "argparse"(name, description)
  return with_help(parser:add_help(false):help_max_width(100):usage_max_width(100):help_description_margin(32))
end

-- A subcommand of a parser. argparse notes under a command's target that it was used: that must not be the name of an
-- argument.
function arguments.command(parser, name, summary)
  return with_help(parser:command(name, summary):summary(summary):add_help(false):target("_" .. name))
end

function arguments.say(name, format, ...)
  io.stderr:write(name, ": ", format:format(...), "\n")
end

function arguments.point_to_help(name)
  io.stderr:write("Try '", name, " --help'.\n")
end

-- "deputy central user create", for that command's parser.
local function name_of(parser)
  return (parser:get_usage():match("^Usage: ([%l%- ]+)"):gsub("[ -]+$", ""))
end

-- argparse itself looks one letter far.
local function with_tip(message, parser, root)
  local word = message:match("^unknown option '%-%-([^'=]*)'$")
  if not word then return message end
  local known = {}
  for option in (parser:get_usage() .. root:get_usage()):gmatch("%f[-]%-%-([%l-]+)") do known[#known + 1] = option end
  local near = nearest.suggest(word, known):match('^did you mean "(.*)"%?$')
  return near and ("%s: did you mean '--%s'?"):format(message, near) or message
end

function arguments.parse(parser, args)
  local name, at = name_of(parser), parser
  parser.error = function(where, message)
    at = where
    error({ usage = message }, 0)
  end
  asked = nil
  local ok, result = pcall(parser.parse, parser, args)
  if asked then
    -- In the words of the commands that C reads the arguments of.
    print((("\n" .. asked:get_help()):gsub("\n(%u%l+):%f[%s]", function(word) return "\n" .. word:lower() .. ":" end)
      :gsub("^\n", "")))
    return nil, 0
  end
  if ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  local said = with_tip(result.usage, at, parser)
  arguments.say(name, "%s", (said:gsub("\nDid you mean", ": did you mean"):gsub("\n", " ")))
  arguments.point_to_help(name_of(at))
  return nil, 2
end

-- A secret from a file that others may read is still a secret; it is said, not refused.
function arguments.secret(options, name, host)
  local given, path = options[name], options[name .. "_file"]
  local dashed = name:gsub("_", "-")
  if given and path then return nil, ("--%s and --%s-file do not go together"):format(dashed, dashed) end
  if given or not path then return given end
  local file, why = io.open(path, "rb")
  if not file then return nil, ("--%s-file: %s"):format(dashed, why) end
  local text = file:read(MAX_SECRET + 1) or ""
  file:close()
  text = text:gsub("%s+$", "")
  if text == "" or #text > MAX_SECRET or text:find("[%c ]") then
    return nil, ("--%s-file: %s: expected one line with the token"):format(dashed, path)
  end
  local mode = host.mode(path)
  if mode and mode & 0x3f ~= 0 then
    io.stderr:write(("warning: %s can be read by others: chmod 600 %s\n"):format(path, path))
  end
  return text
end

return arguments
