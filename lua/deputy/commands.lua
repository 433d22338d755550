-- deputy providers --commands: what would be started for each managed provider, for reading. Nothing is started.
--
--   local commands = require "deputy.commands"
--   commands.shown(provider)              { command = {...}, env = {...} } as a start would have it, but for secrets,
--                                         which are "[key]", and a port that is picked at each start, which is {port}
--   commands.line(shown)                  the same as one line for a shell
--   commands({ FILE, "--json" }, host)    the command, on a configuration that was found good; returns the exit code
--
-- provider is an entry of `providers` as deputy.config reads it.
local cjson = require "cjson"
local config = require "deputy.config"

local commands = {}

local KEY = "[key]"

local function fill(text, provider)
  local words = { apiKey = KEY, model = provider.launch.model, port = provider.port and ("%d"):format(provider.port) }
  return (text:gsub("{(%a+)}", words))
end

-- Does a variable or an option of this name hold a secret? "--hf-token" does, "--max-tokens" does not.
local function names_secret(name)
  name = name:lower()
  return name:find("key$") or name:find("token$") or name:find("%f[%a]pass$") or name:find("secret")
    or name:find("password") or name:find("passwd") or name:find("passphrase")
end

-- A variable is also told by a word within its name: API_KEY_2 holds one, KEYBOARD does not.
local function is_secret(variable)
  local words = "_" .. variable:lower() .. "_"
  return names_secret(variable) or words:find("_key_", 1, true) or words:find("_token_", 1, true)
    or words:find("_pass_", 1, true)
end

local function shown_arguments(provider)
  local out, hide = {}, false
  for i, argument in ipairs(provider.launch.command) do
    local flag, value = argument:match("^(%-[^=]+)(=?.*)$")
    if hide then
      out[i] = KEY
    elseif flag and value ~= "" and names_secret(flag) then
      out[i] = flag .. "=" .. KEY
    else
      out[i] = fill(argument, provider)
    end
    hide = not hide and flag and value == "" and names_secret(flag)
  end
  return out
end

local function shown_env(provider)
  local out = {}
  for i, each in ipairs(provider.launch.env) do
    local name, value = each:match("^([^=]*)=(.*)$")
    out[i] = name .. "=" .. (value ~= "" and is_secret(name) and KEY or fill(value, provider))
  end
  return out
end

function commands.shown(provider)
  return { command = shown_arguments(provider), env = shown_env(provider), cwd = provider.cwd }
end

-- Braces mean something to a shell only around a comma or two dots.
local function is_plain(text)
  return text:find("^[%w_@%%+=:,./{}-]+$") and not (text:find("{", 1, true) and (text:find(",") or text:find("%.%.")))
end

local function quote(text)
  if is_plain(text) then return text end
  if text:find("%c") then
    local function escape(byte) return ("\\x%02x"):format(byte:byte()) end
    return "$'" .. text:gsub("[\\']", "\\%0"):gsub("%c", escape) .. "'"
  end
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

function commands.line(shown)
  local words = {}
  for _, each in ipairs(shown.env) do
    local name, value = each:match("^([^=]*=)(.*)$")
    words[#words + 1] = name .. (value ~= "" and quote(value) or "")
  end
  for _, each in ipairs(shown.command) do words[#words + 1] = quote(each) end
  return table.concat(words, " ")
end

local function json(value) return (cjson.encode(value):gsub("\\/", "/")) end

-- cjson makes an object of an empty array.
local function json_array(list)
  local out = {}
  for i, each in ipairs(list) do out[i] = json(each) end
  return "[" .. table.concat(out, ",") .. "]"
end

local function json_entry(provider, shown)
  return ('{"name":%s,"type":%s,"command":%s,"env":%s,"cwd":%s}'):format(json(provider.name), json(provider.type),
    json_array(shown.command), json_array(shown.env), shown.cwd and json(shown.cwd) or "null")
end

local function print_line(provider, shown)
  local name = provider.name:gsub("%c", "?")
  io.write(("# %s (%s)%s\n%s\n"):format(name, provider.type, shown.cwd and ", in " .. shown.cwd or "",
    commands.line(shown)))
end

local function run(_, arguments)
  local settings = assert(config.load(arguments[1]))
  local entries = {}
  for _, provider in ipairs(settings.providers) do
    local shown = provider.launch and commands.shown(provider)
    if shown and arguments[2] then entries[#entries + 1] = json_entry(provider, shown) end
    if shown and not arguments[2] then print_line(provider, shown) end
  end
  if arguments[2] then io.write("[", table.concat(entries, ","), "]\n") end
  return 0
end

return setmetatable(commands, { __call = run })
