-- deputy contract: does a running central keep the contract that deputy counts on?
local arguments = require "central.arguments"
local cjson = require "cjson"

local NAME = "deputy contract"

local ABOUT = "Checks a running central from outside, with two tokens and the name of an LLM: what a central must do "
  .. "so that deputy may take its word. Prints one line for each rule: ok, FAIL, or a note. Some 200 small requests "
  .. "are made; none changes anything, and none is inference that would cost something unless --infer is given."

local MORE = [[
Tokens given as arguments can be seen by everybody on this machine: prefer the files.

exit codes:
  0  every rule holds
  1  one does not, or the central could not be asked
  2  wrong arguments

example:
  deputy contract --url https://central.example --llm claude \
    --token-allowed-file alice --token-denied-file bob \
    --revoke 'deputy central revoke --user alice --role view --llm claude' \
    --grant 'deputy central grant --user alice --role view --llm claude']]

local function whole_number(text)
  local n = math.tointeger(tonumber(text))
  return n and n > 0 and n or nil, ("expected a whole number above 0, got '%s'"):format(text)
end

local function template(text)
  return text:find("^/") and text:find("{llm}", 1, true) and text or nil,
    ("expected a path that holds {llm}, got '%s'"):format(text)
end

local function make_parser()
  local parser = arguments.parser(NAME, ABOUT):epilog(MORE)
  parser:option("--url", "Where the central is."):count(1)
  parser:option("--llm", "The name of an LLM."):count(1)
  parser:option("--token-allowed", "A token that may view that LLM."):argname("TOKEN")
  parser:option("--token-allowed-file", "The same, in a file."):argname("FILE")
  parser:option("--token-denied", "A valid token that may not."):argname("TOKEN")
  parser:option("--token-denied-file", "The same, in a file."):argname("FILE")
  parser:option("--probe", "The path that is asked."):argname("PATH"):convert(template)
    :default "/api/v1/llms/{llm}"
  parser:option("--inference", "The path of inference."):argname("PATH"):convert(template)
    :default "/api/v1/llms/{llm}/infer"
  parser:flag("--no-inference", "Do not look at inference at all.")
  parser:flag("--infer", "Ask for one answer, of one token, as the allowed caller.")
  parser:option("--revoke", "A command that takes the permission to view from the allowed caller: measures how long "
    .. "until a probe says so."):argname("COMMAND")
  parser:option("--grant", "A command that gives it back."):argname("COMMAND")
  parser:option("--max-lag-ms", "How late a revocation may count."):argname("N"):convert(whole_number):default("1000")
  parser:option("--samples", "How many probes of each kind are timed."):argname("N"):convert(whole_number)
    :default("20")
  parser:option("--timeout-ms", "How long to wait for one answer."):argname("N"):convert(whole_number):default("5000")
  parser:option("--ca-file", "A PEM bundle to trust, instead of the system's."):argname("FILE")
  parser:flag("--json", "Print one JSON object.")
  return parser
end

local function misuse(format, ...)
  arguments.say(NAME, format, ...)
  io.stderr:write("Try '", NAME, " --help'.\n")
  return nil, 2
end

local function read_tokens(options, host)
  local tokens = {}
  for _, who in ipairs{ "allowed", "denied" } do
    local token, why = arguments.secret(options, "token_" .. who, host)
    if why then return nil, why end
    if not token then return nil, ("--token-%s or --token-%s-file is needed"):format(who, who) end
    if token == "" or token:find("[%c ]") then return nil, ("--token-%s: not a bearer token"):format(who) end
    tokens[who] = token
  end
  if tokens.allowed == tokens.denied then return nil, "the two tokens are the same" end
  return tokens
end

local function prepare(options, host)
  local client = require "central.client"
  local base, why = client.parse(options.url)
  if not base then return misuse("--url: %s", why) end
  local tokens
  tokens, why = read_tokens(options, host)
  if not tokens then return misuse("%s", why) end
  if (options.revoke == nil) ~= (options.grant == nil) then return misuse("--revoke and --grant go together") end
  return require("central.contract_run").new{
    base = base, llm = options.llm, tokens = tokens, probe = options.probe, inference = options.inference,
    timeout = options.timeout_ms / 1000, infer_timeout = math.max(options.timeout_ms / 1000, 60),
    samples = options.samples, ca_file = options.ca_file, infer = options.infer, revoke = options.revoke,
    grant = options.grant, max_lag_ms = options.max_lag_ms,
  }
end

local function perform(run, options)
  local reply, failure = run:ask("allowed", run.llm)
  if not reply then return run:conclude("reachable", { failure.message }) end
  local more = require "central.contract_more"
  for _, check in ipairs(require "central.contract_checks") do check(run) end
  if not options.no_inference then more.inference(run) end
  more.revocation(run)
end

local function count(results)
  local counts = { ok = 0, FAIL = 0, note = 0 }
  for _, each in ipairs(results) do counts[each.result] = counts[each.result] + 1 end
  return counts
end

return function(args, host)
  local options, status = arguments.parse(make_parser(), args)
  if not options then return status end
  local run
  run, status = prepare(options, host)
  if not run then return status end
  if not options.json then
    run.on_result = function(each)
      print(("%-4s  %-16s  %s"):format(each.result, each.id, each.text))
      io.stdout:flush()
    end
  end
  perform(run, options)
  local counts = count(run.results)
  if options.json then
    print(cjson.encode{ url = options.url, llm = options.llm, ok = counts.FAIL == 0, checks = run.results })
  else
    print(("%d hold, %d do not, %d notes"):format(counts.ok, counts.FAIL, counts.note))
  end
  return counts.FAIL == 0 and 0 or 1
end
