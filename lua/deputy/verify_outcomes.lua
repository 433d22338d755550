-- All that can happen in the simulated world: how a primary, a probe and a local provider end, and what a run may be
-- like. Each list holds options with a label for people.
local M = {}

M.leaves = { label = "the caller leaves" }

-- ---- the primary ----------------------------------------------------------------------------------------------------

local function failing(whose, label, kind, fields)
  local failure = { kind = kind, message = whose .. ": " .. label }
  for name, value in pairs(fields or {}) do failure[name] = value end
  return { label = label, failure = failure, takes = 0 }
end

M.primary = { { label = "answers", takes = 0 } }

local function primary_fails(label, kind, fields, takes)
  local option = failing("primary", label, kind, fields)
  option.takes = takes or 0
  M.primary[#M.primary + 1] = option
end

for _, kind in ipairs{ "connect", "dns", "tls" } do primary_fails(kind, kind, { code = kind }) end
for _, status in ipairs{ 408, 425, 429, 500, 502, 503, 504, 529, 501, 599 } do
  primary_fails(tostring(status), "status", { status = status })
end
for _, after in ipairs{ 2, 60 } do
  primary_fails(("429 (Retry-After: %d)"):format(after), "status",
    { status = 429, retry_after = after, code = "rate_limit_exceeded" })
end
primary_fails("timeout: connect", "timeout", { code = "connect" }, 2)
primary_fails("timeout: first_byte", "timeout", { code = "first_byte" }, 300)
primary_fails("timeout: first_token", "timeout", { code = "first_token" }, 30)
primary_fails("timeout: idle", "timeout", { code = "idle" }, 30)
primary_fails("cut", "cut", { code = "cut" })
primary_fails("malformed", "malformed", { status = 200, code = "empty" })
primary_fails("in-band error", "in_band", { status = 200 })
primary_fails("in-band 529", "in_band", { status = 529, code = "overloaded_error" })
primary_fails("error", "error")
for _, status in ipairs{ 302, 400, 401, 402, 403, 404, 409, 413, 422 } do
  primary_fails(tostring(status), "status", { status = status })
end
primary_fails("context length", "status", { status = 400, code = "context_length_exceeded" })
primary_fails("in-band context length", "in_band", { status = 200, code = "context_length_exceeded" })
primary_fails("in-band 400", "in_band", { status = 400, code = "invalid_request_error" })
primary_fails("limit", "limit", { status = 200, code = "too_large" })
primary_fails("refused", "refused", { code = "name" })
primary_fails("cancelled", "cancelled", { code = "stopped" })
primary_fails("deadline", "deadline", { code = "total" })

--- What a primary's failure says about asking anybody again: "verdict" (a status that is one), "bytes" (part of a reply
--- had come) or "down". Whether an error without a status of its own is a verdict is left to the script.
function M.class_of(failure)
  local kind, status = failure.kind, failure.status
  if kind == "cut" or (kind == "timeout" and failure.code == "idle") then return "bytes" end
  if kind ~= "status" or status == 408 or status == 425 or status == 429 then return "down" end
  return status >= 500 and status <= 599 and "down" or "verdict"
end

-- ---- the probe ------------------------------------------------------------------------------------------------------

local function answer(label, kind, status, content_type, takes)
  return { label = label, takes = takes or 0,
    probe = { kind = kind, status = status, content_type = content_type, us = 1000 } }
end

local function status_answer(status) return answer(tostring(status), "ok", status) end

M.no_token = answer("no_token", "no_token")

local PAGE = answer("200 HTML", "ok", 200, "text/html")

M.probe = {
  answer("200", "ok", 200, "application/json"), status_answer(204), status_answer(202), status_answer(302),
  status_answer(304), status_answer(400), status_answer(401), status_answer(403), status_answer(404),
  status_answer(429), status_answer(500), status_answer(503), answer("timeout", "timeout", nil, nil, 2),
  answer("dns", "dns"), answer("connect", "connect"), answer("tls", "tls"), answer("protocol", "protocol"),
  answer("limit", "limit"), M.no_token,
}

-- The gate knows a page by itself; where it does not look, the script has to.
M.probe_ungated = { PAGE, table.unpack(M.probe) }

M.probe_without_token = { M.no_token }

function M.is_clean(probe)
  return probe.kind == "ok" and probe.status >= 200 and probe.status <= 299 and probe.content_type ~= "text/html"
end

--- The central has answered, and it is a no. No answer at all leaves an older one as it was.
function M.is_no(probe)
  local status = probe.status or 0
  return status >= 400 and status <= 499 and status ~= 408 and status ~= 425 and status ~= 429
end

-- A script that names a status decides about that one: the lists with those that they lack.
local function with(list, statuses, least, make)
  local all, has = { table.unpack(list) }, {}
  for _, option in ipairs(list) do has[option.label] = true end
  for _, status in ipairs(statuses) do
    if status >= least and not has[tostring(status)] then all[#all + 1] = make(status) end
  end
  return all
end

--- How a primary ends, where these statuses (200 to 599) are named.
function M.primary_with(statuses)
  return with(M.primary, statuses, 300, function(status)
    return failing("primary", tostring(status), "status", { status = status })
  end)
end

--- How a probe ends.
function M.probe_with(statuses, gate)
  return with(gate == "policy" and M.probe_ungated or M.probe, statuses, 200, status_answer)
end

-- ---- a local provider -----------------------------------------------------------------------------------------------

M.complete = {
  { label = "answers", takes = 0 },
  failing("local", "503", "status", { status = 503 }),
  failing("local", "connect", "connect", { code = "connect" }),
  failing("local", "timeout", "timeout", { code = "first_token" }),
  failing("local", "malformed", "malformed", { code = "empty" }),
  failing("local", "in-band error", "in_band", { status = 200 }),
  failing("local", "cut", "cut", { code = "cut" }),
  failing("local", "limit", "limit", { status = 200, code = "too_large" }),
  failing("local", "error", "error"),
  failing("local", "revoked while it was starting", "refused", { code = "gate" }),
}
M.complete[4].takes = 30

--- How long a leg may take at most, in seconds.
M.longest = { primary = 300, probe = 2, complete = 30 }

-- ---- a name that a script mentions ---------------------------------------------------------------------------------

local function few(list, wanted)
  local some = {}
  for _, option in ipairs(list) do
    if wanted[option.label] then some[#some + 1] = option end
  end
  return some
end

--- How a primary ends, a probe and a local provider, where all that counts is a name; false: not one of the primary's.
function M.primary_named(name)
  local some = few(M.primary, { answers = true, connect = true, ["503"] = true, ["404"] = true })
  for _, kind in ipairs(name and { "503", "400", "in-band" } or {}) do
    some[#some + 1] = failing("primary", kind .. " " .. name, kind == "in-band" and "in_band" or "status",
      { status = tonumber(kind) or 200, code = name })
  end
  return some
end

M.probe_few = few(M.probe, { ["200"] = true, ["403"] = true, ["503"] = true, timeout = true })
M.complete_few = few(M.complete, { answers = true, ["503"] = true })

-- ---- what a run is like ---------------------------------------------------------------------------------------------

local function options(...)
  local list = {}
  for i = 1, select("#", ...), 2 do
    list[#list + 1] = { label = (select(i, ...)), value = (select(i + 1, ...)) }
  end
  return list
end

M.stand_ins = options("none", 0, "one", 1, "several", 2)
M.deadline = options("far", 600, "1 ms left", 0.001) -- seconds that are left
M.stream = options("no", false, "yes", true)
M.endpoint = options("chat/completions", "chat/completions", "completions", "completions", "embeddings", "embeddings",
  "responses", "responses", "messages", "messages")
M.chance = options("low", 0, "high", 0.999999)
M.wall = options("Friday 10:00 UTC", 7200, "Friday 23:00 UTC", 54000, "Sunday 12:00 UTC", 187200) -- after state.WALL
M.id = options("odd", 1001, "even", 1002)
M.registered = options("registered", true, "not registered", false)
M.llm_names = { "claude", "opus" }
M.caller_names = { "caller-a", "caller-b" }

return M
