-- What a central must do to be asked by deputy, as checks from outside. Each takes a run (contract_run.lua) and writes
-- down one result or more. They are called in order.
local client = require "central.client"
local contract_run = require "central.contract_run"
local cjson = require "cjson"

local show, random_name = contract_run.show, contract_run.random_name
local callers = contract_run.callers
local EVERYBODY = { "allowed", "denied", "none", "bad" }

local function add(problems, format, ...) problems[#problems + 1] = format:format(...) end

local function is_ok(reply) return reply and reply.status >= 200 and reply.status < 300 end

local checks = {}

-- ---- verdicts -------------------------------------------------------------------------------------------------------

local function expects(id, who, wanted, text)
  return function(run)
    local problems = {}
    for _, each in ipairs(who) do
      local reply, failure = run:ask(each, run.llm)
      local right = reply and (wanted == 200 and is_ok(reply) or reply.status == wanted)
      if not right then
        add(problems, "%s: expected %s, got %s", callers[each], wanted == 200 and "2xx" or wanted, show(reply, failure))
      end
    end
    run:conclude(id, problems, text)
  end
end

checks[#checks + 1] = expects("allowed", { "allowed" }, 200, "the allowed token gets 2xx")
checks[#checks + 1] = expects("denied", { "denied" }, 403, "the denied token gets 403")
checks[#checks + 1] = expects("no-token", { "none" }, 401, "without a token it is 401")
checks[#checks + 1] = expects("bad-token", { "bad", "altered", "shortened" }, 401,
  "a token that is none, or nearly one, gets 401")

-- ---- HEAD and GET ---------------------------------------------------------------------------------------------------

-- What differs between two answers to the same question says nothing: a date, a request's number. Nor does what is
-- the connection's own.
local function volatile(a, b)
  local names = { date = true, age = true, connection = true, ["keep-alive"] = true }
  for name, value in pairs(a.headers) do
    if b.headers[name] ~= value then names[name] = true end
  end
  return names
end

local function compare_heads(head, get, again, problems, what)
  if head.status ~= get.status then
    return add(problems, "%s: HEAD says %d, GET %d", what, head.status, get.status)
  end
  local passing = volatile(get, again)
  passing["transfer-encoding"] = true -- RFC 9110 section 8.6 lets a HEAD leave it out
  for name, value in pairs(get.headers) do
    if not passing[name] and head.headers[name] ~= value then
      add(problems, "%s: %s is '%s' for GET and %s for HEAD", what, name, value:sub(1, 40),
        head.headers[name] and "'" .. head.headers[name]:sub(1, 40) .. "'" or "not there")
    end
  end
  for name in pairs(head.headers) do
    if not passing[name] and not get.headers[name] then add(problems, "%s: %s comes with HEAD alone", what, name) end
  end
end

checks[#checks + 1] = function(run)
  local problems, count = {}, 0
  for _, who in ipairs(EVERYBODY) do
    for _, name in ipairs{ run.llm, random_name(#run.llm), "c" .. random_name(23) } do
      local head, failed = run:ask(who, name)
      local get, get_failed = run:ask(who, name, { method = "GET" })
      local again = run:ask(who, name, { method = "GET" })
      local what = callers[who] .. (name == run.llm and "" or ", a name that is none")
      if head and get and again then
        compare_heads(head, get, again, problems, what)
        count = count + 1
      else
        add(problems, "%s: HEAD %s, GET %s", what, show(head, failed), show(get, get_failed))
      end
    end
  end
  run:conclude("head-equals-get", problems,
    ("status, headers and Content-Length, for %d callers and names"):format(count))
end

-- Bytes after the head of an answer to HEAD would be read as the next answer.
local function look_after_head(run, who, problems)
  local c, failure = run:open()
  if not c then return add(problems, "%s: %s", callers[who], failure.message) end
  local request = run:request(who, run.llm)
  local head, failed = c:ask(request)
  if not head then
    add(problems, "%s: %s", callers[who], failed.message)
  else
    local extra = c:extra(0.05)
    if extra ~= "" then
      add(problems, "%s: %d bytes after the head of a HEAD", callers[who], #extra)
    elseif not c.closing and not c.ended then
      request.method = "GET"
      local reply, why = c:ask(request)
      if not reply then
        add(problems, "%s: the next request on the connection: %s", callers[who], show(reply, why))
      end
    end
  end
  c:close()
end

checks[#checks + 1] = function(run)
  local problems = {}
  for _, who in ipairs(EVERYBODY) do look_after_head(run, who, problems) end
  run:conclude("no-body-on-head", problems, "not one byte follows the head of a HEAD")
end

-- ---- what an intermediary would do ----------------------------------------------------------------------------------

local function every_reply(id, text, find)
  return function(run)
    local problems = {}
    for _, seen in ipairs(run.seen) do
      local problem = find(seen.reply)
      if problem then add(problems, "%s: %s", seen.what, problem) end
    end
    run:conclude(id, problems, text)
  end
end

checks[#checks + 1] = every_reply("no-redirect", "no probe is sent elsewhere", function(reply)
  return reply.status >= 300 and reply.status < 400 and tostring(reply.status) or nil
end)

checks[#checks + 1] = every_reply("no-html", "no 2xx is a page", function(reply)
  local kind = (reply.headers["content-type"] or ""):lower()
  local page = kind:find("text/html", 1, true) or kind:find("application/xhtml", 1, true)
    or reply.body:sub(1, 200):lower():find("^%s*<!doctype html") or reply.body:sub(1, 200):lower():find("^%s*<html")
  return page and is_ok(reply) and "a 2xx that is HTML" or nil
end)

checks[#checks + 1] = every_reply("no-cache", "no verdict comes out of a cache", function(reply)
  return reply.headers.age and "an Age header: the answer is not the central's own" or nil
end)

-- ---- names ----------------------------------------------------------------------------------------------------------

-- The keys and types of a JSON value, without what stands in it.
local function shape(value)
  if type(value) ~= "table" then return type(value) end
  local parts = {}
  for key, each in pairs(value) do parts[#parts + 1] = tostring(key) .. "=" .. shape(each) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

local function shape_of(body)
  local ok, value = pcall(cjson.decode, body)
  return ok and shape(value) or "no JSON"
end

local function without(text, name)
  local parts, at = {}, 1
  while true do
    local from, to = text:find(name, at, true)
    if not from then break end
    parts[#parts + 1] = text:sub(at, from - 1)
    at = to + 1
  end
  parts[#parts + 1] = text:sub(at)
  return table.concat(parts, "?")
end

-- Two answers to each question: what changes between those says nothing.
local function describe(run, who, name, method)
  local a, why = run:ask(who, name, { method = method })
  local b = run:ask(who, name, { method = method })
  if not a or not b then return nil, why and why.message or "no second answer" end
  local passing = volatile(a, b)
  local names = {}
  for header, value in pairs(a.headers) do
    names[#names + 1] = header .. (passing[header] and "" or ": " .. without(value, name))
  end
  table.sort(names)
  return {
    status = a.status, headers = table.concat(names, "\n"), shape = shape_of(a.body), size = #a.body,
    body = a.body == b.body and without(a.body, name),
  }
end

local function tell_apart(known, other)
  if known.status ~= other.status then return ("status %d and %d"):format(known.status, other.status) end
  if known.headers ~= other.headers then return "headers differ" end
  if known.shape ~= other.shape then return "bodies of another shape" end
  if known.size ~= other.size then return ("bodies of %d and %d bytes"):format(known.size, other.size) end
  if known.body and other.body and known.body ~= other.body then return "bodies with other words" end
end

checks[#checks + 1] = function(run)
  local problems = {}
  for _, who in ipairs{ "denied", "none", "bad" } do
    for _, method in ipairs{ "GET", "HEAD" } do
      local known, why = describe(run, who, run.llm, method)
      for _ = 1, 3 do
        local other, why_not = describe(run, who, random_name(#run.llm), method)
        local difference = known and other and tell_apart(known, other) or not (known and other) and (why or why_not)
        if difference then add(problems, "%s, %s, a name that exists and one that does not: %s", callers[who], method,
          difference) end
        if difference then break end
      end
    end
  end
  run:conclude("name-oracle", problems, "who may not see an LLM cannot tell whether it exists")
end

checks[#checks + 1] = function(run)
  local problems = {}
  local names = { random_name(12), "c" .. random_name(23), run.llm .. "-" .. random_name(6), random_name(100) }
  for _, name in ipairs(names) do
    for _, method in ipairs{ "HEAD", "GET" } do
      local reply, failure = run:ask("allowed", name, { method = method })
      if not reply or reply.status ~= 403 and reply.status ~= 404 then
        add(problems, "%s '%s': expected 404 or 403, got %s", method, name:sub(1, 24), show(reply, failure))
      end
    end
  end
  run:conclude("catch-all", problems, "a name that nobody gave is not allowed to anybody")
end

local function other_case(name)
  return (name:gsub("%a", function(c) return c:lower() == c and c:upper() or c:lower() end))
end

-- What stands where the name should; one_segment: deputy could send it, as the name of an LLM.
local function tricks(run)
  local name, parent = client.escape(run.llm), run.probe:match("([^/]+)/{llm}") or "x"
  return {
    { "." , true }, { "..", true }, { "%2e", true }, { "%2e%2e", true }, { "%2E%2E", true },
    { "%2F" .. name, true }, { name .. "%2F", true }, { name .. "%2f", true }, { name .. "%2F.", true },
    { "x%2F..%2F" .. name, true }, { "x%2f%2e%2e%2f" .. name, true }, { "..%2F" .. parent .. "%2F" .. name, true },
    { name .. "%00", true }, { name .. "%20", true }, { name .. "%0A", true }, { name .. "%3Fx", true },
    { name .. "%23", true }, { name .. "%25", true }, { name .. ";x=y", true },
    { "", false }, { name .. "/", false }, { name .. "/.", false }, { name .. "//", false }, { "/" .. name, false },
    { "./" .. name, false }, { "x/../" .. name, false },
    { client.escape(other_case(run.llm)), other_case(run.llm) == run.llm, case = true },
  }
end

checks[#checks + 1] = function(run)
  local problems, lenient = {}, {}
  for _, trick in ipairs(tricks(run)) do
    local raw, one_segment = trick[1], trick[2]
    local ours = raw == client.escape(run.llm) -- a name without letters has no other case
    for _, who in ipairs(ours and {} or { "allowed", "denied" }) do
      local reply, failure = run:ask(who, "", { raw = raw })
      if is_ok(reply) and (who == "denied" or one_segment) then
        add(problems, "'%s' is %d for %s", raw, reply.status, callers[who])
      elseif is_ok(reply) then
        lenient[#lenient + 1] = "'" .. raw .. "'"
      elseif reply and reply.status >= 500 then
        add(problems, "'%s' is %d: a name must not break the central", raw, reply.status)
      elseif failure and failure.kind == "timeout" then
        add(problems, "'%s': no answer", raw)
      end
    end
  end
  run:conclude("path-tricks", problems, "no other spelling of a path is allowed")
  if #lenient > 0 then
    run:note("path-spelling", "also 2xx for who may see the LLM: " .. table.concat(lenient, ", "))
  end
end

-- ---- time -----------------------------------------------------------------------------------------------------------

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

-- Taken in turn, so that a busy machine slows both.
checks[#checks + 1] = function(run)
  local known, other = {}, {}
  for i = 1, run.samples do
    local a = run:ask("denied", run.llm)
    local b = run:ask("denied", random_name(#run.llm))
    if not a or not b then return run:conclude("timing", { "not every probe was answered" }) end
    known[i], other[i] = a.us, b.us
  end
  local a, b = median(known) / 1000, median(other) / 1000
  local text = ("a denied caller waits %.1f ms for a name that exists, %.1f ms for one that does not"):format(a, b)
  local apart = math.abs(a - b) > 25 and math.max(a, b) > 2 * math.min(a, b)
  run:conclude("timing", apart and { text } or {}, text .. (" (medians of %d)"):format(run.samples))
end

checks[#checks + 1] = function(run)
  local text = ("the slowest of %d answers took %.0f ms; deputy waits 2,000 ms for a probe"):format(#run.seen,
    run.slowest / 1000)
  run:conclude("in-time", run.slowest >= 2000000 and { text } or {}, text)
end

return checks
