-- For deputy.config_reader: values that lead out of the text (URLs, paths, addresses, files) and secrets.
local config_reader = require "deputy.config_reader"
local sorted_keys = require "deputy.sorted_keys"
local web_address = require "deputy.web_address"

local Reader, read = config_reader.Reader, config_reader.read
local is_object, join, printable = config_reader.is_object, config_reader.join, config_reader.printable

local MAX_SECRET_BYTES = 8192
local MAX_BUNDLE_BYTES = 4 * 1024 * 1024

-- ---- URLs, paths and addresses --------------------------------------------------------------------------------------

function read.url(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local wrong = web_address.problem(value)
  if wrong then return self:problem(key, place, wrong) end
  return value
end

function read.template(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  if value:sub(1, 1) ~= "/" then return self:problem(key, place, 'expected a path that begins with "/"') end
  if value:find("[ #]") then return self:problem(key, place, "a path must not have spaces or # in it") end
  local may = spec.may or {}
  local stray = value:gsub("{(%a+)}", function(word) return may[word] and "" end):match("[{}][^/}]*}?")
  if stray then
    local known = {}
    for _, word in ipairs(sorted_keys(may)) do known[#known + 1] = "{" .. word .. "}" end
    return self:problem(key, place, '"%s" is not known in a path here: %s', printable(stray),
      #known > 0 and "known are " .. table.concat(known, " and ") or "braces are not")
  end
  if spec.must and not value:find("{" .. spec.must .. "}", 1, true) then
    return self:problem(key, place, "expected {%s} in the path: else one answer would hold for all LLMs", spec.must)
  end
  return value
end

function read.routes(self, spec, value, key, place)
  local out = {}
  for endpoint, target in pairs(spec.default) do out[endpoint] = target end
  if not is_object(value, place) then
    self:expected(key, place, "an object from endpoints to paths", value)
    return out
  end
  for _, endpoint in ipairs(sorted_keys(value)) do
    local field_key, field_place = join(key, printable(endpoint)), place.fields[endpoint]
    if endpoint ~= "*" and not endpoint:find("^[%w._~-][%w._~/-]*$") then
      self:problem(field_key, field_place, 'expected an endpoint as in "chat/completions" (what follows /v1/), or "*"')
    end
    out[endpoint] = read.template(self, spec.of, value[endpoint], field_key, field_place)
  end
  return out
end

-- The path with ~ and $NAME filled in, relative to the configuration; nil and why when something is not set.
function Reader:expand(value)
  local unset
  local function get(variable)
    local found = self.env(variable)
    if not found or found == "" then unset = unset or variable end
    return found
  end
  local expanded = value:gsub("%$({?)([%a_][%w_]*)(}?)", function(open, variable, close)
    if open == "{" and close == "" then return nil end
    return (get(variable) or "") .. (open == "" and close or "")
  end)
  if value == "~" or value:sub(1, 2) == "~/" then expanded = (self.home or get("HOME") or "") .. expanded:sub(2) end
  if unset then return nil, ("$%s is not set"):format(unset) end
  if expanded:sub(1, 1) == "/" or self.dir == "." then return expanded end
  return self.dir .. "/" .. expanded
end

function read.path(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local expanded, why = self:expand(value)
  if not expanded then return self:problem(key, place, why) end
  return expanded
end

-- Names of files are shorter, or have folders.
local function looks_like_token(value)
  return not value:find("/", 1, true) and #value > 20 or value:find("[+=%s]") or value:find("^sk%-")
    or value:find("^dpt_")
end

-- value: what stands in the configuration for that file.
function Reader:named_file(key, place, file, max, value)
  local content, why = self.read_file(file, max)
  if content then return content end
  if looks_like_token(value) then
    return self:problem(key, place, "cannot read the file that it names (relative names start in %s; its own is not "
      .. "shown, since it looks like a token: that belongs into a file): %s", self.dir, why)
  end
  -- What a variable holds is not the configuration's to show.
  local shown = value:find("$", 1, true) and value or file
  return self:problem(key, place, "cannot read %s: %s", shown, why)
end

-- Without certificates no server can be trusted, so what is wrong with them is found before anybody asks one.
function read.bundle(self, spec, value, key, place)
  local file = read.path(self, spec, value, key, place)
  if not file then return nil end
  local content = self:named_file(key, place, file, MAX_BUNDLE_BYTES, value)
  if not content then return nil end
  if not content:find("-----BEGIN ", 1, true) then
    return self:problem(key, place, "expected certificates in PEM form, and there are none in the file that it names")
  end
  return file
end

function Reader:default_address(value)
  local path_ = value:match("^unix:(.*)$")
  if not path_ then return value end
  local expanded = self:expand(path_)
  return expanded and "unix:" .. expanded
end

function read.address(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local socket = value:match("^unix:(.+)$")
  if socket then
    local expanded, why = self:expand(socket)
    if not expanded then return self:problem(key, place, why) end
    return "unix:" .. expanded
  end
  local host, port = web_address.split_host(value)
  if spec.tcp and host and port and web_address.port_ok(port, 0) then return value end
  return self:problem(key, place, 'expected %s"unix:PATH", got "%s"', spec.tcp and '"HOST:PORT" or ' or "",
    printable(value))
end

-- What is compared with a header must be able to equal one.
function read.host(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local host, port = web_address.split_host(value)
  if host and (not port or web_address.port_ok(port, 0)) then return value end
  return self:problem(key, place, 'expected a host as in "deputy.example" or "deputy.example:4141", got "%s"',
    printable(value))
end

function read.origin(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value or value == "null" or value:find("^%l[%l%d+.-]*://[^%u%s/?#]+$") then return value end
  return self:problem(key, place,
    'expected an origin as browsers send it, in small letters and without a path, as in "https://app.example", '
    .. 'got "%s"', printable(value))
end

-- ---- secrets --------------------------------------------------------------------------------------------------------

local function secret_problem(value)
  if value == "" then return "must not be empty" end
  if #value > MAX_SECRET_BYTES then return ("must not be longer than %d bytes"):format(MAX_SECRET_BYTES) end
  if value:find("[^\x21-\x7e]") then return "must not hold spaces, line breaks or bytes that are not ASCII" end
end

-- As an element of an array.
function read.secret(self, _, value, key, place)
  if type(value) ~= "string" then return self:problem(key, place, "expected a string") end
  local wrong = secret_problem(value)
  if wrong then return self:problem(key, place, wrong) end
  self:warn_readable(key, place, self.file)
  return value
end

function Reader:warn_readable(key, place, file)
  local mode = file and self.mode and self.mode(file)
  if mode and mode & 4 ~= 0 then
    self:warn(key, place, ("every user of this machine can read it: chmod 600 %s"):format(file))
  end
end

function Reader:secret_file(key, place, value)
  local file = read.path(self, {}, value, key, place)
  if not file then return nil end
  local content = self:named_file(key, place, file, MAX_SECRET_BYTES + 3, value)
  if not content then return nil end
  content = content:gsub("\r?\n$", "")
  local wrong = secret_problem(content)
  if wrong then return self:problem(key, place, "what the file holds %s", wrong) end
  self:warn_readable(key, place, file)
  return content
end

function Reader:secret_field(field, value, key, places)
  local inline, file = value[field], value[field .. "File"]
  local inline_key, file_key = join(key, field), join(key, field .. "File")
  if inline ~= nil and file ~= nil then
    return self:problem(file_key, places[field .. "File"], "%s is given too: keep one of them", inline_key)
  end
  if inline ~= nil then return read.secret(self, nil, inline, inline_key, places[field]) end
  if file ~= nil then return self:secret_file(file_key, places[field .. "File"], file) end
end
