-- deputy central serve: the configuration, with the options of the command line over it, handed to the server.
local admin_config = require "central.admin_config"

return function(settings, db, options, host)
  local address = options.listen
  if address and not address:find("^unix:.") and not address:find("^.+:%d%d?%d?%d?%d?$") then
    return nil, ("--listen: expected HOST:PORT or unix:PATH, got '%s'"):format(address)
  end
  settings = settings or admin_config.defaults()
  local limits, timeouts = settings.limits, settings.timeouts
  return host.serve{
    listen = address or settings.listen, db = db, caFile = settings.caFile, logFormat = settings.log.format,
    logLevel = settings.log.level, maxBodyBytes = limits.maxBodyBytes, maxBufferedBytes = limits.maxBufferedBytes,
    maxConnections = limits.maxConnections, maxInFlight = limits.maxInFlight,
    drainMs = timeouts.drainMs, connectMs = timeouts.connectMs, firstByteMs = timeouts.firstByteMs,
    idleMs = timeouts.idleMs, totalMs = timeouts.totalMs,
  }
end
