---@meta deputy
-- What editors (LuaLS) know about deputy. Nothing here runs: part 1 is what require "deputy" gives to a host, part 2 is
-- what a policy script finds in its own, separate Lua. spec/meta_spec.lua compares both with what is really there.

---------------------------------------------------------------------------------------------------------------------
-- Part 1: hosts
---------------------------------------------------------------------------------------------------------------------

---@class deputy
---@field version string for example "0.1.0"
local deputy = {}

---@alias deputy.FailureKind
---| "error" # no kind, no status: a host's own primary
---| "status" # an HTTP status other than 2xx
---| "connect" # refused, or reset before the head of the reply
---| "dns"
---| "tls"
---| "timeout" # code says which: connect, first_byte, first_token, idle
---| "cut" # ended before it was complete, after the head
---| "malformed" # a 2xx that is empty, HTML or not what was asked
---| "in_band" # an error inside a 2xx, before any output
---| "limit" # over a limit of deputy's
---| "cancelled"
---| "deadline"
---| "refused" # not sent at all

--- Why a call did not succeed. tostring() makes a sentence of it.
---@class deputy.Failure
---@field kind deputy.FailureKind
---@field message string for people, without secrets
---@field status? integer HTTP status
---@field code? string a short word that a program can test: "first_byte", "rate_limit_exceeded"
---@field retry_after? number seconds

--- One thing that happened in a run. Times are microseconds since the run began.
---@class deputy.Trace
---@field leg "primary"|"probe"|"local"|"policy"
---@field attempt integer from 1, for each leg
---@field start_us integer
---@field end_us integer
---@field kind string "ok", a failure's kind, or a probe's kind
---@field status? integer
---@field provider? string local legs
---@field verdict? deputy.Verdict probe legs: what the gate makes of it

---@alias deputy.Verdict "allowed"|"forbidden"|"unreachable"

--- A whole HTTP reply. Header names are in lower case.
---@class deputy.Reply
---@field status integer
---@field headers table<string, string>
---@field body string

---@class deputy.RoutedReply: deputy.Reply
---@field failover boolean a local provider answered
---@field via? string its name
---@field trace deputy.Trace[]

---@class deputy.Result
---@field result any what primary or substitute returned
---@field failover boolean a local provider answered
---@field via? string its name
---@field trace deputy.Trace[] built when it is first asked for; pairs does not show it

--- What is asked of a provider over HTTP.
---@class deputy.Request
---@field llm? string the central LLM's name
---@field endpoint? string what follows /v1/; "chat/completions" when absent
---@field body? string|table JSON text, or a table that is encoded
---@field stream? boolean absent: what the body says
---@field headers? table<string, string>

---@class deputy.RoutedRequest: deputy.Request
---@field llm string
---@field bearer_token? string the caller's; absent: the router's
---@field whole? boolean hold a stream back until it is complete, so that a cut can still fail over
---@field total_ms? integer only ever shortens the router's

--- router:complete asks with a deputy.Request and takes a JSON string, a deputy.Reply, a table that becomes JSON, or
--- nil and a failure. router:run without a substitute asks with the LLM's name and takes anything.
---@alias deputy.Complete fun(self: deputy.TableProvider, request: deputy.Request|string): any, deputy.Failure?

--- A provider written in Lua. It runs in the Lua that called the router and may not yield.
---@class deputy.TableProvider
---@field name string 1 to 128 bytes
---@field complete deputy.Complete
---@field list_models? fun(self: deputy.TableProvider): string[]
---@field is_available? fun(self: deputy.TableProvider): boolean, string?

--- A registry of providers, which several routers may share.
---@return deputy.Registry
function deputy.registry() end

---@alias deputy.ProbeKind "ok"|"timeout"|"dns"|"connect"|"tls"|"protocol"|"limit"|"no_token"

---@class deputy.RouterOptions
---@field central_url? string "http(s)://host[:port][/prefix]"
---@field bearer_token? string for requests that bring none
---@field policy? string path of the script; absent: the router.lua that came with the module
---@field ca_file? string PEM bundle to trust instead of the system's
---@field probe_path? string "/api/v1/llms/{llm}"; {llm} must be in it
---@field probe_method? "HEAD"|"GET" "GET" for a central that answers HEAD with 405
---@field inference? table<string, string> endpoint, or "*", to path
---@field settings? table reaches the script as `settings`
---@field gate? "probe"|"policy" "policy": the script alone decides
---@field verify? "refuse"|"warn"|"off" a script that is not fail-closed in every world that `verify` looks at
---@field permit_ms? integer how long a clean 2xx stays good for its one dispatch
---@field timeouts? deputy.Timeouts
---@field limits? deputy.Limits
---@field on_log? fun(level: "error"|"warn"|"info"|"debug", text: string)
---@field probe? fun(llm: string, token: string): integer?, deputy.ProbeKind? in place of HEAD: a status, or nil and why

---@class deputy.Timeouts
---@field connect_ms? integer
---@field first_byte_ms? integer
---@field first_token_ms? integer
---@field idle_ms? integer
---@field total_ms? integer
---@field probe_ms? integer

---@class deputy.Limits
---@field max_runs? integer
---@field max_body_bytes? integer
---@field max_reply_bytes? integer
---@field max_error_bytes? integer
---@field max_hold_bytes? integer
---@field max_header_bytes? integer
---@field policy_instructions? integer
---@field policy_run_bytes? integer
---@field policy_bytes? integer
---@field policy_ms? integer

--- Routes calls for the registry's LLMs. Raises when an option or the policy is not usable.
---@param registry deputy.Registry
---@param options? deputy.RouterOptions
---@return deputy.Router
function deputy.router(registry, options) end

---@class deputy.OpenaiOptions
---@field name string
---@field url string base, as in "http://127.0.0.1:8000/v1"
---@field model? string replaces the request's "model"
---@field api_key? string
---@field ca_file? string

--- A provider for any OpenAI-compatible server.
---@param options deputy.OpenaiOptions
---@return deputy.Provider
function deputy.openai(options) end

--- A provider within the process that repeats the last thing the user said.
---@param name string
---@return deputy.Provider
function deputy.echo(name) end

---@class deputy.Registry
local Registry = {}

--- Raises when the name is taken.
---@param provider deputy.TableProvider|deputy.Provider
function Registry:register(provider) end

--- Drops the provider and every failover entry that points at it. Raises when it is not registered.
---@param name string
function Registry:unregister(name) end

--- Lets a provider stand in for llm, after those that already may. Raises "... not registered".
---@param llm string
---@param provider_name string
function Registry:register_failover(llm, provider_name) end

--- The first provider that may stand in for llm: the very value that was registered.
---@param llm string
---@return deputy.TableProvider|deputy.Provider|nil
function Registry:failover_for(llm) end

--- Sorted by llm.
---@return { llm: string, provider: string }[]
function Registry:list_failovers() end

--- Sorted by name.
---@return (deputy.TableProvider|deputy.Provider)[]
function Registry:providers() end

---@class deputy.Router
local Router = {}

--- Calls primary; when it raises, and the policy and the gate allow, calls substitute with the provider that stands in.
--- Raises the primary's own error value otherwise. Neither function may yield.
---@param llm string
---@param primary fun(): any
---@param substitute? fun(provider: deputy.TableProvider|deputy.Provider): any absent: provider:complete(llm)
---@return deputy.Result
function Router:run(llm, primary, substitute) end

--- Sends a request to the central and lets a local provider stand in for it. On failure the third value is the error
--- reply that the primary sent, if it sent one.
---@param request deputy.RoutedRequest
---@return deputy.RoutedReply?
---@return deputy.Failure?
---@return deputy.RoutedReply?
function Router:complete(request) end

--- May this caller view llm now?
---@param llm string
---@param token? string absent: the router's
---@return deputy.Verdict
function Router:check_auth(llm, token) end

--- Swaps the policy in when all of it went well; otherwise the old one stays.
---@param path string
---@return true?
---@return deputy.Failure?
function Router:load_policy(path) end

--- A provider made in C.
---@class deputy.Provider
---@field name string
local Provider = {}

--- Asks it directly: with a body, or with a request that has one. No policy, no central.
---@param request string|table|deputy.Request
---@return deputy.Reply?
---@return deputy.Failure?
---@return deputy.Reply? error_reply
function Provider:complete(request) end

---@return string[]?
---@return deputy.Failure?
function Provider:list_models() end

---@return boolean
---@return string? why_not
function Provider:is_available() end

---------------------------------------------------------------------------------------------------------------------
-- Part 2: policies
--
-- A policy is a chunk of text that returns a table, deputy.Policy. It has what is described here, and of Lua itself
-- only this:
--
--   _G          _G _VERSION assert error getmetatable ipairs load next pairs pcall rawequal rawget rawlen rawset select
--               setmetatable tonumber tostring type xpcall string table math utf8 coroutine os
--   string      byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper
--   table       concat insert move pack remove sort unpack
--   math        abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max maxinteger min
--               mininteger modf pi pow rad random randomseed sin sinh sqrt tan tanh tointeger type ult
--   utf8        char charpattern codepoint codes len offset
--   coroutine   close create isyieldable resume running status wrap yield
--   os          clock date difftime time
---------------------------------------------------------------------------------------------------------------------

--- What the script returns. It stays in memory until the next reload, and so does whatever its functions hold.
---@class deputy.Policy
---@field route fun(run: deputy.Run): deputy.PolicyReply?, deputy.PolicyFailure? one request: a reply of it, or nil
---@field should_failover fun(failure: deputy.PolicyFailure): boolean may somebody else answer after this failure?
---@field verdict fun(probe: deputy.ProbeAnswer): deputy.Verdict what a probe means; the gate may still be stricter
---@field settings? table<string, table> what may stand in policy.settings, as deputy.settings takes it: `deputy check`
---@field cache_allow_ms? integer with "gate": "policy": the longest time for which the script keeps an allowed answer

--- policy.settings of the configuration, as they stand; {} when there are none.
---@type table
settings = {}

JSON = {}

---@param value any
---@return string
function JSON.encode(value) end

---@param text string
---@return any
function JSON.decode(text) end

--- What null is in a decoded value, and becomes null in an encoded one.
---@type lightuserdata
JSON.null = nil

--- Goes to the host's log. At most 400 bytes.
---@param level "error"|"warn"|"info"|"debug"
---@param text string
function log(level, text) end

--- log("info", tostring(value))
---@param value any
function print(value) end -- luacheck: ignore 121

--- A clock that only goes forward, also while the machine sleeps, in seconds; os.clock is the time computed. Their
--- difference counts, not their value.
---@return number
function now() end

--- The time of day: whole seconds since 1970, UTC. os.time and os.date read the same clock.
---@return integer
function time() end

--- From 0 up to but not 1. math.random and this one are seeded by the engine, differently in each state.
---@return number
function random() end

--- Adds to a counter, which shows up in the host's metrics (deputy_list_counters) and outlives reloads. Raises when
--- there is no room for another one (64).
---@param name string 1 to 64 of a-z, 0-9 and _
---@param n? number 0 or more; absent: 1
function count(name, n) end

--- Says how something is, for whoever looks from outside (deputy_list_states; the page and the metrics of the gateway
--- show the topic "breaker"): the word holds for so many seconds, or until another one comes; without a word the entry
--- is forgotten. A script that is loaded anew begins without entries. False when there is no room (1024 entries).
---@param topic string 1 to 32 of a-z, 0-9 and _: "breaker"
---@param name string what it is about, 1 to 128 bytes: an LLM
---@param word? string 1 to 32 of a-z, 0-9 and _: "open", "half_open"
---@param seconds? number
---@return boolean
function state(topic, name, word, seconds) end

--- A module that travels inside the library: deputy.judge, deputy.retry, deputy.breaker, deputy.settings. No file is
--- ever read.
---@param name string
---@return any
function require(name) end -- luacheck: ignore 121

--- One request on its way. Of its functions those that say so wait: other runs go on meanwhile, and this one comes back
--- with the answer, or never when its deadline passes or its caller leaves. Only the run's own coroutine may wait.
---@class deputy.Run
---@field llm string what the caller asks for
---@field endpoint string what follows /v1/, as "chat/completions"
---@field stream boolean
---@field id integer never used twice in the life of an engine
---@field caller? string an opaque word for the caller's token, the same for the same token; nil without a token
---@field deadline number when the run ends, in seconds on now()'s clock
---@field attempt integer how often the primary was called so far
---@field gate "probe"|"policy" what the host has chosen
local Run = {}

---@class deputy.LegOptions
---@field timeout_ms? integer ends this call earlier than the host's own timeouts would

---@class deputy.ProbeOptions: deputy.LegOptions
---@field llm? string ask about another LLM; no permit comes of that

--- Calls the primary. Waits.
---@param options? deputy.LegOptions
---@return deputy.PolicyReply?
---@return deputy.PolicyFailure?
function Run:primary(options) end

--- The first provider that may stand in.
---@return deputy.Candidate?
function Run:failover() end

--- All of them, in order; none: an empty array.
---@return deputy.Candidate[]
function Run:candidates() end

--- Asks the central whether this caller may view this LLM now. Never raises. A clean 2xx leaves a permit for one call
--- of one local provider. Waits.
---@param options? deputy.ProbeOptions
---@return deputy.ProbeAnswer
function Run:probe(options) end

--- Hands the run to a local provider, if the gate lets it: else the failure's kind is "refused", its code "gate".
--- Waits.
---@param provider deputy.Candidate|string
---@param options? deputy.LegOptions
---@return deputy.PolicyReply?
---@return deputy.PolicyFailure?
function Run:complete(provider, options) end

--- Waits.
---@param ms number 0 to a day
---@return true
function Run:sleep(ms) end

--- Runs each function with this run, all at once, and takes the first result that is good (its first value is neither
--- nil nor false); the others are cancelled. None is good: nil, and the failure of a branch that asked the primary,
--- else of the last one. Waits.
---@param branches (fun(run: deputy.Run): any, deputy.PolicyFailure?)[]
---@return any
---@return deputy.PolicyFailure?
function Run:first(branches) end

--- log, with the run's number before it.
---@param level "error"|"warn"|"info"|"debug"
---@param text string
function Run:log(level, text) end

--- A reply that is whole, or a stream that has begun. Its bytes do not pass through Lua.
---@class deputy.PolicyReply
---@field status? integer
---@field content_type? string
---@field stream boolean
---@field size integer bytes held so far

--- Why a call did not succeed. tostring() makes a sentence of it.
---@class deputy.PolicyFailure
---@field kind deputy.FailureKind
---@field status? integer
---@field code? string
---@field message string
---@field retry_after? number seconds

---@class deputy.ProbeAnswer
---@field kind deputy.ProbeKind "ok": a well-formed HTTP reply came, whatever its status
---@field status? integer
---@field content_type? string in lower case, without parameters
---@field us integer how long it took, in microseconds

--- A local provider that may stand in for the run's LLM.
---@class deputy.Candidate
---@field name string

return deputy
