-- The checks that need more than two tokens and a name: what inference answers, and how soon a revocation counts.
local client = require "central.client"
local contract_run = require "central.contract_run"
local cjson = require "cjson"

local show, callers = contract_run.show, contract_run.callers

local more = {}

local function add(problems, format, ...) problems[#problems + 1] = format:format(...) end

-- ---- inference ------------------------------------------------------------------------------------------------------

local function ask_inference(run, who)
  local question = { model = run.llm, max_tokens = 1, messages = { { role = "user", content = "Say yes." } } }
  return client.ask(run.base, {
    method = "POST", target = run:target(run.llm, nil, run.inference), token = run.tokens[who],
    timeout = run.infer_timeout, ca_file = run.ca_file, headers = { { "Content-Type", "application/json" } },
    body = cjson.encode(question),
  })
end

local function code_of(reply)
  local ok, json = pcall(cjson.decode, reply.body)
  local err = ok and type(json) == "table" and json.error
  local code = type(err) == "table" and (err.code or err.type)
  return type(code) == "string" and code ~= "" and code or nil
end

local function verdicts(run, problems)
  local codes = {}
  for _, each in ipairs{ { "none", 401 }, { "bad", 401 }, { "denied", 403 } } do
    local who, wanted = each[1], each[2]
    local reply, failure = ask_inference(run, who)
    if not reply or reply.status ~= wanted then
      add(problems, "%s: expected %d, got %s", callers[who], wanted, show(reply, failure))
    elseif not code_of(reply) then
      add(problems, "%s: the %d has no error.code", callers[who], wanted)
    else
      codes[wanted] = code_of(reply)
    end
  end
  if codes[401] and codes[401] == codes[403] then
    add(problems, "401 and 403 have the same code '%s'", codes[401])
  end
  return codes
end

-- An upstream that is down must not look like a verdict.
local function outcome(run, codes, problems)
  local reply, failure = ask_inference(run, "allowed")
  if not reply then return add(problems, "the allowed token: %s", show(reply, failure)) end
  local code = code_of(reply)
  if reply.status >= 200 and reply.status < 300 then return "the allowed token is answered" end
  if reply.status < 500 then
    return add(problems, "the allowed token gets %d: neither an answer nor an outage", reply.status)
  end
  if not code then return add(problems, "the %d has no error.code", reply.status) end
  if code == codes[401] or code == codes[403] then
    return add(problems, "the %d has the code '%s', as a verdict has", reply.status, code)
  end
  return ("an outage is %d '%s'"):format(reply.status, code)
end

function more.inference(run)
  local problems = {}
  local codes = verdicts(run, problems)
  local answered = run.infer and outcome(run, codes, problems)
  run:conclude("inference", problems, ("401 '%s', 403 '%s'%s"):format(codes[401], codes[403],
    answered and ", " .. answered or ""))
  if not run.infer then
    run:note("inference-answer", "not asked with the allowed token: --infer does, and costs what one answer costs")
  end
end

-- ---- revocation -----------------------------------------------------------------------------------------------------

local function verdict(reply)
  if not reply then return "none" end
  if reply.status >= 200 and reply.status < 300 then return "allowed" end
  return (reply.status == 401 or reply.status == 403) and "forbidden" or "other"
end

-- On the connection that stood before, and on new ones, in turn.
local function wait_for(run, wanted, kept)
  local began, others, last = run.now(), 0, nil
  local patience = run.max_lag_ms / 100 -- ten times what is fine
  repeat
    local reply
    if kept and not kept.closing then reply = kept:ask(run:request("allowed", run.llm)) end
    if kept and not reply then kept = nil end
    local first = reply and verdict(reply)
    if not first or first == wanted then
      reply = run:ask("allowed", run.llm)
      if verdict(reply) == wanted then return others, last and (last - began) * 1000 or 0 end
    end
    others, last = others + 1, run.now()
    os.execute("sleep 0.005")
  until run.now() - began > patience
  return nil
end

local function measure(run, problems)
  if verdict((run:ask("allowed", run.llm))) ~= "allowed" then
    return add(problems, "the allowed token is not allowed to begin with")
  end
  local kept = run:open()
  if kept then kept:ask(run:request("allowed", run.llm)) end
  if not os.execute(run.revoke) then return add(problems, "the command of --revoke failed") end
  local late, ms = wait_for(run, "forbidden", kept)
  if kept then kept:close() end
  if not late then return add(problems, "still not forbidden %.1f s after the revocation", run.max_lag_ms / 100) end
  if late == 0 then return "the very next probe is forbidden" end
  local text = ("%d probes were still not forbidden, for %.0f ms"):format(late, ms)
  return ms <= run.max_lag_ms and text or add(problems, "%s; at most %d ms are fine", text, run.max_lag_ms)
end

function more.revocation(run)
  if not run.revoke then
    return run:note("revocation-lag", "not measured: --revoke COMMAND and --grant COMMAND do")
  end
  local problems = {}
  local text = measure(run, problems)
  if not os.execute(run.grant) then
    add(problems, "the command of --grant failed")
  else
    local late, ms = wait_for(run, "allowed")
    if not late then add(problems, "not allowed again %.1f s after the grant", run.max_lag_ms / 100)
    elseif text then text = ("%s; granted again after %.0f ms"):format(text, ms) end
  end
  run:conclude("revocation-lag", problems, text)
end

return more
