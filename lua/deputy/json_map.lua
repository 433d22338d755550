-- Where the values of a JSON text stand: lua-cjson decodes, this says on which line each value is, which kind it has
-- (cjson gives the same empty table for [] and {}), which bytes it takes, and which names an object has twice.
--
--   local json_map = require "deputy.json_map"
--   local place, doubles = json_map.read(text)
--   place.fields.providers.items[1].fields.url.line
--
-- The text must be valid JSON, so decode it first. A place is { kind =, line =, first =, last = } with fields (by name)
-- for an object and items for an array. line is the line of the member's name, or of the value where it has none.
-- doubles is an array of { key = "central.url", line = }; keys count from 0, as in jq.
local cjson = require "cjson"

local json_map = {}

local function member_key(key, name)
  return key == "" and name or key .. "." .. name
end

local Walk = {}
Walk.__index = Walk

function Walk:skip_space()
  self.at = self.text:find("[^ \t\r\n]", self.at) or #self.text + 1
end

-- Only ever asked for later and later places, so that the whole text is counted once.
function Walk:count_lines()
  local _, breaks = self.text:sub(self.counted, self.at - 1):gsub("\n", "")
  self.line = self.line + breaks
  self.counted = self.at
  return self.line
end

function Walk:skip_string()
  local at = self.at + 1
  while true do
    at = self.text:find('["\\]', at)
    if self.text:byte(at) == 34 then break end
    at = at + 2
  end
  self.at = at + 1
end

function Walk:object(place, key)
  place.fields = {}
  self:skip_space()
  while self.text:byte(self.at) ~= 125 do -- }
    if self.text:byte(self.at) == 44 then self.at = self.at + 1 end -- ,
    self:skip_space()
    local line, first = self:count_lines(), self.at
    self:skip_string()
    local name = cjson.decode("[" .. self.text:sub(first, self.at - 1) .. "]")[1]
    local name_key = member_key(key, name)
    self:skip_space()
    self.at = self.at + 1 -- :
    if place.fields[name] then self.doubles[#self.doubles + 1] = { key = name_key, line = line } end
    place.fields[name] = self:value(name_key, line)
    self:skip_space()
  end
end

function Walk:array(place, key)
  place.items = {}
  self:skip_space()
  while self.text:byte(self.at) ~= 93 do -- ]
    if self.text:byte(self.at) == 44 then self.at = self.at + 1 end
    place.items[#place.items + 1] = self:value(("%s[%d]"):format(key, #place.items))
    self:skip_space()
  end
end

function Walk:value(key, line)
  self:skip_space()
  local place = { line = line or self:count_lines(), first = self.at }
  local byte = self.text:byte(self.at)
  if byte == 34 then -- "
    place.kind = "string"
    self:skip_string()
  elseif byte == 123 or byte == 91 then -- { [
    place.kind = byte == 123 and "object" or "array"
    self.at = self.at + 1
    self[place.kind](self, place, key)
    self.at = self.at + 1
  else
    place.kind = "scalar"
    self.at = self.text:find("[],} \t\r\n]", self.at) or #self.text + 1
  end
  place.last = self.at - 1
  return place
end

function json_map.read(text)
  local walk = setmetatable({ text = text, at = 1, counted = 1, line = 1, doubles = {} }, Walk)
  return walk:value(""), walk.doubles
end

return json_map
