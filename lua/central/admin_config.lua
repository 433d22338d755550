-- The configuration of `deputy central`: which database, and for `serve` how.
--   local settings, problems = admin_config.load(path, host)    problems are printed with deputy.config's format
--   admin_config.defaults()
--   admin_config.absolute(db, dir)    "sqlite:FILE" with FILE under dir
local config = require "deputy.config"

local kinds = config.kinds
local GIB = 1024 * 1024 * 1024

local admin_config = {}

local schema = kinds.object{
  listen = kinds.address{ default = "127.0.0.1:7070", tcp = true },
  db = kinds.secret(), -- a postgres:// URL may hold a password
  caFile = kinds.bundle(),
  log = kinds.object{
    format = kinds.choice{ "logfmt", "json", default = "logfmt" },
    level = kinds.choice{ "error", "warn", "info", "debug", default = "info" },
  },
  limits = kinds.object{
    maxBodyBytes = kinds.integer{ min = 1024, max = GIB, default = 33554432 },
    maxBufferedBytes = kinds.integer{ min = 1024, max = 1024 * GIB, default = GIB },
    maxConnections = kinds.integer{ min = 1, max = 1000000, default = 1024 },
    maxInFlight = kinds.integer{ min = 1, max = 1000000, default = 512 },
  },
  timeouts = kinds.object{
    connectMs = kinds.ms(2000), firstByteMs = kinds.ms(300000), idleMs = kinds.ms(30000), totalMs = kinds.ms(600000),
    drainMs = kinds.ms(30000),
  },
}

function admin_config.absolute(db, dir)
  local file = db:match("^sqlite:([^/].*)$")
  return file and dir ~= "." and ("sqlite:%s/%s"):format(dir, file) or db
end

function admin_config.load(path, host)
  local settings, problems = config.load_as(schema, path, { mode = host.mode })
  if settings and settings.db then
    settings.db = admin_config.absolute(settings.db, path:match("^(.*)/[^/]*$") or ".")
    -- The name of a file is no secret, whoever may read it.
    if settings.db:find("^sqlite:") then
      local others = {}
      for _, each in ipairs(problems) do
        if each.key ~= "db" then others[#others + 1] = each end
      end
      problems = others
    end
  end
  return settings, problems
end

function admin_config.defaults()
  return config.load_as(schema, "", { read_file = function() return "{}" end })
end

return admin_config
