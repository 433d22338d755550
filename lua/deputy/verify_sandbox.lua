-- The globals of a script that is verified: the safe parts of Lua, and clocks, chance and words of the simulated world.
local state = require "deputy.verify_state"

local M = {}

local create, resume, running = coroutine.create, coroutine.resume, coroutine.running
local sethook, getmetatable = debug.sethook, debug.getmetatable
local type, error, pcall, tostring, select = type, error, pcall, tostring, select
local pack, unpack = table.pack, table.unpack
local format = string.format

local INSTRUCTIONS, HOOK_EVERY = 2000000, 10000

M.INSTRUCTIONS = INSTRUCTIONS
M.source = debug.getinfo(1, "S").source

local function copy_of(t)
  local copy = {}
  for key, value in pairs(t) do copy[key] = value end
  return copy
end

local BASE = { "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen",
  "rawset", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall", "_VERSION" }
local LIBRARIES = { "string", "table", "math", "utf8", "coroutine", "os" }

local function plain_environment()
  local env = {}
  for _, name in ipairs(BASE) do env[name] = _G[name] end
  for _, name in ipairs(LIBRARIES) do env[name] = copy_of(_G[name]) end
  local os = env.os
  env.os = { time = os.time, date = os.date, clock = os.clock, difftime = os.difftime }
  env.string.dump = nil
  local ok, cjson = pcall(require, "cjson")
  env.JSON = ok and { encode = cjson.encode, decode = cjson.decode, null = cjson.null }
    or { encode = tostring, decode = function() error("JSON is not at hand") end }
  return env
end

local function module_text(name)
  local path = package and package.searchpath and package.searchpath(name, package.path)
  local file = path and io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text, path
end

-- A module that somebody else loaded looks for its globals where that somebody is; here it shall find the world's.
local function rebind(value, env, seen)
  if seen[value] then return end
  if type(value) == "table" then
    seen[value] = true
    for _, v in next, value do rebind(v, env, seen) end
    local meta = getmetatable(value)
    if meta then rebind(meta, env, seen) end
  elseif type(value) == "function" then
    seen[value] = true
    for i = 1, 255 do
      local name, v = debug.getupvalue(value, i)
      if not name then break end
      if name == "_ENV" then
        debug.setupvalue(value, i, env)
      else
        rebind(v, env, seen)
      end
    end
  end
end

local function add_modules(self, env)
  local loaded, theirs = {}, env.require
  function env.require(name)
    if loaded[name] ~= nil then return loaded[name] end
    if type(name) ~= "string" or not name:find("^deputy%.[%w_]+$") or name:find("^deputy%.verify") then
      error(format("require: a policy can only require what comes with deputy (deputy.retry, deputy.breaker, ...), "
        .. "not '%s'", tostring(name)), 2)
    end
    local module
    if theirs then
      module = theirs(name)
      rebind(module, env, {})
    else
      local text = module_text(name)
      if not text then error("require: no module '" .. name .. "'", 2) end
      local chunk, problem = load(text, "=" .. name, "t", env)
      if not chunk then error(problem, 0) end
      module = chunk()
    end
    loaded[name] = module == nil and true or module
    return loaded[name]
  end
  self.loaded = loaded
end

local function add_clocks(self, env)
  env.now = function() return self:moment_now() end
  env.time = function() return math.floor(self:wall_now()) end
  local date, time, difftime = env.os.date, env.os.time, env.os.difftime
  env.os = {
    difftime = difftime,
    clock = function() return self:moment_now() - state.NOW end,
    time = function(t)
      if t ~= nil then return time(t) end
      return math.floor(self:wall_now())
    end,
    date = function(how, at)
      if at == nil then at = math.floor(self:wall_now()) end
      return date(how, at)
    end,
  }
  env.random = function() return self:chance() end
  local floor = math.floor
  env.math.randomseed = function() end
  env.math.random = function(low, high)
    if low == nil then return self:chance() end
    if high == nil then low, high = 1, low end
    if low == 1 and high == 0 then low, high = 0, 0x7fffffff end
    if low > high then error("bad argument #1 to 'random' (interval is empty)", 2) end
    return low + floor(self:chance() * (high - low + 1))
  end
end

local LEVELS = { error = true, warn = true, info = true, debug = true }

--- As log and run:log do.
function M.check_log(level, text)
  if not LEVELS[level == nil and "info" or level] then
    error("bad argument: invalid option '" .. tostring(level) .. "'", 3)
  end
  if type(text) ~= "string" and type(text) ~= "number" then
    error("bad argument: string expected, got " .. type(text), 3)
  end
end

local function check_word(who, argument, word, max, what)
  if type(word) ~= "string" or #word > max or not word:find("^[a-z0-9_]+$") then
    error(("bad argument #%d to '%s' (expected %s: 1 to %d of a-z, 0-9 and _)"):format(argument, who, what, max), 3)
  end
end

local function add_words(env)
  env.log = function(level, text) M.check_log(level, text) end
  env.print = function(...) tostring((...)) end
  env.count = function(name, n)
    check_word("count", 1, name, 64, "a counter's name")
    if n ~= nil and (math.type(n) == nil or not (n >= 0 and n <= 1e15)) then
      error("bad argument #2 to 'count' (a counter only grows)", 2)
    end
  end
  env.state = function(topic, name, word, seconds)
    check_word("state", 1, topic, 32, "a topic")
    if type(name) ~= "string" or #name < 1 or #name > 128 then
      error("bad argument #2 to 'state' (expected a name of 1 to 128 bytes)", 2)
    end
    if word ~= nil then check_word("state", 3, word, 32, "a word") end
    if seconds ~= nil and (math.type(seconds) == nil or not (seconds >= 0 and seconds <= 1e9)) then
      error("bad argument #4 to 'state' (expected how many seconds that lasts: 0 or more)", 2)
    end
    return true
  end
end

--- Counts what a coroutine computes; over the limit it fails, and fails again whatever it catches. Whoever gave a
--- resume of his own sees to that himself.
function M.watch(self, co)
  if self.given_resume then return end
  sethook(co, function()
    self.instructions = self.instructions + HOOK_EVERY
    if self.instructions <= INSTRUCTIONS then return end
    self.killed = true
    sethook(co, function() error("the script used up its instructions", 0) end, "", 1)
    error("the script used up its instructions", 0)
  end, "", HOOK_EVERY)
end

local function take(self, left, killed, ...)
  self.fuel = left
  self.killed = self.killed or killed ~= nil
  return ...
end

--- coroutine.resume, within what a run may compute.
function M.resume(self, co, ...)
  if not self.given_resume then return resume(co, ...) end
  return take(self, self.given_resume(self.fuel, co, ...))
end

local function add_coroutines(self, env)
  local function started(f)
    local co = create(f)
    M.watch(self, co)
    return co
  end
  env.coroutine.create = started
  env.coroutine.wrap = function(f)
    local co = started(f)
    return function(...)
      local got = pack(resume(co, ...))
      if not got[1] then error(got[2], 0) end
      return unpack(got, 2, got.n)
    end
  end
  env.coroutine.running = function()
    local co = running()
    if co == self.current then return nil, true end
    return co, false
  end
end

local function add_types(self, env)
  local sims, plain_type, plain_getmetatable, plain_setmetatable = self.sims, type, env.getmetatable, env.setmetatable
  env.type = function(...)
    if select("#", ...) > 0 and plain_type((...)) == "table" and sims[(...)] then return "userdata" end
    return plain_type(...)
  end
  env.getmetatable = function(value)
    if plain_type(value) == "string" then return false end -- as the engine protects it
    return plain_getmetatable(value)
  end
  env.setmetatable = function(t, meta)
    if plain_type(meta) == "table" and rawget(meta, "__gc") ~= nil then
      error("a policy may not set __gc: a finalizer runs outside every budget", 2)
    end
    return plain_setmetatable(t, meta)
  end
  env.load = function(chunk, name, _, given)
    return load(chunk, name, "t", given == nil and env or given)
  end
end

local function name_atoms(self, env)
  local atoms = self.atoms
  for name, value in pairs(env) do
    if type(value) == "function" then atoms[value] = name end
  end
  for _, name in ipairs(LIBRARIES) do
    for field, value in pairs(env[name] or {}) do
      if type(value) == "function" then atoms[value] = field end
    end
  end
  for field, value in pairs(env.JSON or {}) do
    if type(value) == "function" then atoms[value] = field end
  end
  atoms[self] = "world"
  for name, value in pairs(self.methods) do atoms[value] = name end
  for _, class in pairs(self.classes) do atoms[class] = class.__name end
end

--- Makes self.env. The world gives: settings, given_environment, sims, atoms, methods, classes; moment_now(),
--- wall_now(), chance(); current, the coroutine that runs; instructions and killed, the budget.
function M.make(self)
  local env = self.given_environment and self.given_environment() or plain_environment()
  for _, name in ipairs(LIBRARIES) do env[name] = copy_of(env[name] or {}) end
  env._G = env
  env.settings = self.settings
  env.dofile, env.loadfile, env.collectgarbage, env.debug, env.io, env.package = nil, nil, nil, nil, nil, nil
  add_modules(self, env)
  add_clocks(self, env)
  add_words(env)
  add_coroutines(self, env)
  add_types(self, env)
  name_atoms(self, env)
  self.env = env
end

return M
