-- http:// and https:// addresses of servers: a base to which paths are appended.
--
--   web_address.split_host(text)     the host and the port, as text or nil, of "host", "host:port", "[::1]:port"; nil
--                                    when it is none of them
--   web_address.port_ok(text, least) whether it is a port number that is at least so high
--   web_address.problem(url)         what is wrong with it; nil when nothing is
local web_address = {}

function web_address.port_ok(port, least)
  local value = port:find("^%d%d?%d?%d?%d?$") and tonumber(port)
  return value and value >= least and value <= 65535
end

function web_address.split_host(text)
  local host, rest = text:match("^(%[[%x:.]+%])(.*)$")
  if not host then host, rest = text:match("^([%w._-]+)(.*)$") end
  if not host or (rest ~= "" and rest:sub(1, 1) ~= ":") then return nil end
  return host, rest ~= "" and rest:sub(2) or nil
end

function web_address.problem(url)
  local authority, rest = url:match("^[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)$")
  if not authority then return "expected an absolute URL, http:// or https://" end
  if authority:find("@", 1, true) then
    return "a URL must not carry a user or a password: use the key for the token instead"
  end
  if rest:find("[?#]") then return "the URL must not have a query or a fragment" end
  local host, port = web_address.split_host(authority)
  if not host or url:find("[%c %z]") then return "the URL has no valid host in it" end
  if port and not web_address.port_ok(port, 1) then return "the URL's port must be a number from 1 to 65535" end
end

return web_address
