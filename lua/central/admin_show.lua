-- How results are shown: one word for scripts, tables for people, JSON for both.
--   local show = admin_show.new(options, host)      options.json
--   show:list(columns, rows, more)     show:object(object)     show:word(text, object)     show:done(object, text, ...)
-- word is what a script needs of a change (an id, a token); done is for changes that leave nothing to know: a terminal
-- gets a sentence on stderr, a script silence.
local cjson = require "cjson"
local sorted_keys = require "deputy.sorted_keys"
local tables = require "central.tables"

local admin_show = {}
local Show = {}
Show.__index = Show

local encoder = cjson.new()
encoder.encode_max_depth(16)

function admin_show.new(options, host)
  return setmetatable({ json = options.json, talks = host.is_terminal(2) }, Show)
end

local function encode_list(rows)
  local parts = {}
  for i, row in ipairs(rows) do parts[i] = encoder.encode(row) end
  return "[" .. table.concat(parts, ",\n ") .. "]"
end

function Show:list(columns, rows, more)
  if self.json then
    print(encode_list(rows))
  else
    io.write(tables.format(columns, rows))
  end
  if more then io.stderr:write(("these are the first %d: --limit N gives more\n"):format(#rows)) end
end

local function flag_names(flags)
  local names = {}
  for _, name in ipairs(sorted_keys(flags)) do
    if flags[name] == true then names[#names + 1] = name end
  end
  return names
end

function Show:object(object)
  if self.json then return print(encoder.encode(object)) end
  local rows = {}
  for _, key in ipairs(sorted_keys(object)) do
    local value = object[key]
    if type(value) == "table" and #value == 0 then value = flag_names(value) end
    rows[#rows + 1] = { key = key, value = value }
  end
  io.write((tables.format({ { "key", "" }, { "value", "" } }, rows):gsub("^[^\n]*\n", "")))
end

function Show:word(text, object)
  print(self.json and encoder.encode(object) or text)
end

function Show:done(object, format, ...)
  if self.json then return print(encoder.encode(object)) end
  if self.talks then io.stderr:write(format:format(...), "\n") end
end

return admin_show
