-- Centrals to try `deputy contract` on: one that keeps the contract, and one for each way to break it.
--   local peer = peers.start(contract_central(fault))      fault: a key below, or nil
-- It knows the LLM "claude", which the token `allowed` may view and run, and `denied` may not. POST /revoke and /grant
-- change that. Its inference is always down.
local ALLOWED, DENIED = "tok-alice-0123456789", "tok-bob-0123456789"

local script = [[
  local ALLOWED, DENIED = "tok-alice-0123456789", "tok-bob-0123456789"

  local function is(state, fault) return state.fault == fault end

  local function answer(status, code, more)
    local body = code and ('{"error":{"message":"%s","type":"central","code":"%s"}}'):format(code, code)
    local reply = { status = status, headers = { ["Content-Type"] = "application/json" }, body = body }
    for name, value in pairs(more or {}) do reply.headers[name] = value end
    return reply
  end

  local function decoded(text)
    return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
  end

  local function resolved(path)
    local parts = {}
    for part in path:gmatch("[^/]+") do
      if part == ".." then parts[#parts] = nil elseif part ~= "." then parts[#parts + 1] = part end
    end
    return "/" .. table.concat(parts, "/")
  end

  local function who_asks(request, state)
    local token = (request.headers.authorization or ""):match("^Bearer (.+)$")
    if token == ALLOWED then return "allowed" end
    if token == DENIED then return "denied" end
    if token and is(state, "accepts part of a token") and ALLOWED:sub(1, #token) == token then return "allowed" end
    return token and "bad" or "none"
  end

  local function name_in(request, state)
    if is(state, "answers for a path with a slash at its end") then request.path = request.path:gsub("/$", "") end
    local name = request.path:match("^/api/v1/llms/([^/]+)$")
    if is(state, "resolves what was escaped") then
      return resolved(decoded(request.path)):match("^/api/v1/llms/([^/]+)$")
    end
    if is(state, "lists at a dot") and (name == "." or name == "%2e") then return "claude" end
    if is(state, "takes another case for the same") and name then return decoded(name):lower() end
    return name and decoded(name)
  end

  local function refuse(state, who, exists)
    if who == "none" then
      if is(state, "allows without a token") then return answer(200, "ok") end
      if is(state, "redirects to a page for logging in") then return answer(302, "login", { Location = "/login" }) end
      return answer(is(state, "forbids without a token") and 403 or 401, "unauthorized")
    elseif who == "bad" then
      return answer(is(state, "forbids a token that is none") and 403 or 401, "unauthorized")
    elseif who == "denied" then
      if is(state, "allows everybody") then return answer(200, "ok") end
      if is(state, "hides as not found") then return answer(404, "not_found") end
      if is(state, "says not found only when it is not") and not exists then return answer(404, "not_found") end
      if is(state, "says more about what exists") and exists then return answer(403, "forbidden_here") end
      if is(state, "says other words about what exists") and exists then return answer(403, "forbibben") end
      if is(state, "has a header for what exists") and exists then
        return answer(403, "forbidden", { ["X-Llm-Id"] = "c123" })
      end
      return answer(403, "forbidden")
    end
  end

  local function look(request, state, conn)
    local who, name = who_asks(request, state), name_in(request, state)
    if not name then return answer(404, "no_path") end
    if name:find("[%c]") and is(state, "breaks on a control byte") then return answer(500, "internal") end
    local exists = name == "claude"
    if who == "allowed" and state.revoked then
      state.asked_since = (state.asked_since or 0) + 1
      local stale = is(state, "remembers for a while") and state.asked_since <= 60
        or is(state, "asks once for each connection") and state.known and state.known[conn.record.id]
          and state.asked_since <= 60
      if not stale then who = "denied" end
    end
    local refused = refuse(state, who, exists)
    if refused and is(state, "looks longer for what exists") and who == "denied" and exists then conn:wait(60) end
    if refused then return refused end
    if is(state, "refuses everybody") then return answer(403, "forbidden") end
    if is(state, "is slow once") and not state.was_slow then
      state.was_slow = true
      conn:wait(2100)
    end
    if not exists then
      if is(state, "allows any name") or is(state, "allows what looks like an id") and name:find("^c%w+$")
        and #name == 24 then
        return answer(200, "ok")
      end
      if is(state, "breaks on a name that is none") then return answer(500, "internal") end
      return answer(404, "not_found")
    end
    state.known = state.known or {}
    state.known[conn.record.id] = true
    if is(state, "answers with a page") then
      return { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<!DOCTYPE html>hello" }
    end
    if is(state, "is behind a cache") then return answer(200, "ok", { Age = "3" }) end
    return answer(200, "ok", { ["X-Request-Id"] = tostring(request.id) })
  end

  local function infer(request, state)
    local who = who_asks(request, state)
    if is(state, "has no codes") then return { status = who == "allowed" and 503 or who == "denied" and 403 or 401 } end
    if is(state, "has one code for both verdicts") and who ~= "allowed" then
      return answer(who == "denied" and 403 or 401, "no")
    end
    if is(state, "hides inference as not found") and who == "denied" then return answer(404, "not_found") end
    if who == "none" or who == "bad" then return answer(401, "unauthorized") end
    if who == "denied" then return answer(403, "forbidden") end
    if is(state, "calls an outage a verdict") then return answer(503, "forbidden") end
    if is(state, "calls an outage a mistake") then return answer(400, "bad") end
    return answer(503, "upstream_unreachable")
  end

  return function(request, state, conn)
    if request.method == "POST" and request.path == "/revoke" then
      state.revoked, state.asked_since = true, 0
      return { status = 204 }
    elseif request.method == "POST" and request.path == "/grant" then
      state.revoked = false
      return { status = 204 }
    elseif request.method == "POST" and request.path == "/api/v1/llms/claude/infer" then
      return infer(request, state)
    elseif request.method == "GET" or request.method == "HEAD" then
      local reply = look(request, state, conn)
      if request.method == "HEAD" then
        if is(state, "has another status for HEAD") and reply.status == 200 then return { status = 204 } end
        if is(state, "has no length for HEAD") then reply.headers["Content-Length"] = "0" end
        if is(state, "has a header for HEAD alone") then reply.headers["X-Probe"] = "yes" end
        if is(state, "sends a body with HEAD") then
          return ("HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"):format(
            reply.status, #reply.body, reply.body)
        end
      end
      return reply
    end
    return answer(404, "no_path")
  end
]]

return {
  allowed = ALLOWED, denied = DENIED,
  spec = function(fault) return { script = script, fault = fault } end,
}
