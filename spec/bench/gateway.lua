-- deputy serve beside nginx: the same upstreams, the same load from wrk, everything on one CPU. README.md says how to
-- read what it prints. Ends with 1 when a bound is not met.
--   BENCH_SECONDS   how long each load lasts (2)        BENCH_ROUNDS   how often, in turns with nginx (5)
package.path = "./?.lua;" .. package.path
local uv = require "luv"
local cjson = require "cjson"
local socket = require "socket"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = os.getenv("DEPUTY_BUILD") or "build"
local SECONDS = tonumber(os.getenv("BENCH_SECONDS")) or 2
local ROUNDS = tonumber(os.getenv("BENCH_ROUNDS")) or 5
local TICKS = 100 -- of /proc/PID/stat, a second
local TOKEN = "tok-bench"
local OURS = "/v1/chat/completions"
local REPLY = '{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,' ..
  '"message":{"role":"assistant","content":"An answer of no great length."},"finish_reason":"stop"}],"usage":' ..
  '{"prompt_tokens":3,"completion_tokens":7,"total_tokens":10}}'
local QUESTION = { role = "user", content = "A question that somebody might ask." }

local over = 0

-- bound nil: for information; below true: at most, else at least.
local function figure(name, value, unit, bound, below)
  local met = not bound or (below and value <= bound) or (not below and value >= bound)
  if not met then over = over + 1 end
  io.write(("%-62s %9.2f %-4s"):format(name, value, unit),
    bound and (" at %s %g: %s"):format(below and "most" or "least", bound, met and "ok" or "NOT MET") or "", "\n")
  io.flush()
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- ---- who takes part

local dir = tmp.dir()

local function free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  server:close()
  return math.tointeger(tonumber(port))
end

local function wait_for(port)
  for _ = 1, 400 do
    local c = socket.connect("127.0.0.1", port)
    if c then return c:close() end
    uv.sleep(10)
  end
  error("nothing listens on port " .. port, 0)
end

local NGINX = [[
daemon off; master_process off; pid %s/nginx.pid; error_log %s/error.log; worker_rlimit_nofile 20000;
events { worker_connections 12000; }
http {
  access_log off; default_type application/json; keepalive_requests 100000000; client_body_temp_path %s/body;
  proxy_temp_path %s/proxy; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s; tcp_nodelay on;
  %s
}]]

local function nginx(name, text, port)
  local home = dir .. "/" .. name
  assert(uv.fs_mkdir(home, 448))
  tmp.write(home, "nginx.conf", (NGINX:gsub("%%s", home, 7):gsub("%%s", function() return text end)))
  local process = shell.start{ "nginx", "-p", home, "-e", home .. "/error.log", "-c", home .. "/nginx.conf" }
  wait_for(port)
  return process
end

local central, standin, proxy = free_port(), free_port(), free_port()
local streams = shell.start{ BUILD .. "/spec/bench/gateway_upstream" }
local stream_port = assert(streams:wait_for("(%d+)\n", 5000), "no upstream for streams")

-- Static answers: central says yes on one path and 503 on another, the stand-in always answers.
local upstream = nginx("upstream", ([[
  server { listen 127.0.0.1:%d backlog=4096;
    location = /api/v1/llms/up/infer { return 200 '%s'; }
    location = /api/v1/llms/down/infer { return 503 '{"error":{"message":"down"}}'; }
    location = /api/v1/llms/down { return 204; }
    location = /api/v1/llms/up { return 204; } }
  server { listen 127.0.0.1:%d backlog=4096; location / { return 200 '%s'; } }
]]):format(central, REPLY, standin, REPLY), central)

local beside = nginx("proxy", ([[
  upstream central { server 127.0.0.1:%d; keepalive 64; keepalive_requests 100000000; }
  upstream standin { server 127.0.0.1:%d; keepalive 64; keepalive_requests 100000000; }
  upstream streams { server 127.0.0.1:%s; keepalive 64; keepalive_requests 100000000; }
  proxy_http_version 1.1; proxy_set_header Connection "";
  server { listen 127.0.0.1:%d backlog=4096;
    location = /api/v1/llms/up/infer { proxy_pass http://central; }
    location = /api/v1/llms/down/infer { proxy_pass http://central; proxy_intercept_errors on;
      error_page 503 = @failover; }
    location @failover { auth_request /probe; proxy_pass http://standin; }
    location = /probe { internal; proxy_method HEAD; proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_set_header Connection close; proxy_pass http://127.0.0.1:%d/api/v1/llms/down; }
    location / { proxy_pass http://streams; proxy_buffering off; proxy_read_timeout 600s; } }
]]):format(central, standin, stream_port, proxy, central), proxy)

-- The same from a script of HAProxy's, with its own client, which keeps connections, but not that of the probe, which
-- says that it is closed. Like deputy it takes the LLM from the body and hands headers on in both directions; the token
-- goes to the central alone.
local HAPROXY = [[
local client, HOP = core.httpclient, { "host", "connection", "content-length", "expect", "te", "transfer-encoding" }
core.register_service("failover", "http", function(applet)
  local body, headers = applet:receive(), applet.headers
  local llm = "CENTRAL/" .. applet.c:json_query(body, "$.model")
  for _, name in ipairs(HOP) do headers[name] = nil end
  local reply = client():post{ url = llm .. "/infer", headers = headers, body = body }
  if reply.status == 503 then
    local token = headers.authorization
    local probe = client():head{ url = llm, headers = { authorization = token, connection = { "close" } } }
    if probe.status >= 200 and probe.status < 300 then
      headers.authorization = nil
      body = body:gsub('("model"%s*:%s*)"[^"]*"', '%1"m"', 1)
      reply = client():post{ url = "STANDIN", headers = headers, body = body }
    end
  end
  applet:set_status(reply.status)
  for _, name in ipairs(HOP) do reply.headers[name] = nil end
  for name, values in pairs(reply.headers) do
    for _, value in pairs(values) do applet:add_header(name, value) end
  end
  applet:add_header("content-length", tostring(#reply.body))
  applet:start_response()
  applet:send(reply.body)
end)
]]

-- nil where there is no HAProxy.
local function haproxy()
  if shell.run{ "haproxy", "-v" }.status ~= 0 then return nil end
  local port = free_port()
  local script = tmp.write(dir, "failover.lua", (HAPROXY:gsub("%u%u%u%u%u%u%u", {
    CENTRAL = ("http://127.0.0.1:%d/api/v1/llms"):format(central),
    STANDIN = ("http://127.0.0.1:%d/v1/chat/completions"):format(standin),
  })))
  local config = tmp.write(dir, "haproxy.cfg", ([[
global
  nbthread 1
  maxconn 1000
  lua-load %s
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend all
  bind 127.0.0.1:%d
  http-request use-service lua.failover
]]):format(script, port))
  local process = shell.start{ "haproxy", "-db", "-f", config }
  wait_for(port)
  return { name = "HAProxy Lua", pid = process.pid, port = port, stop = function() process:stop() end }
end

-- Neither writes a line for each request: that would measure the disk.
local function serve(central_port, breaker)
  local wait, port = 600000, free_port()
  local config = tmp.write(dir, "deputy.json", cjson.encode{
    central = { url = "http://127.0.0.1:" .. central_port, bearerToken = TOKEN },
    providers = {
      { name = "local", type = "openai", url = "http://127.0.0.1:" .. standin .. "/v1", model = "m",
        failoverFor = { "up", "down" } },
    },
    policy = { settings = { retries = 0, breaker = breaker or false } },
    timeouts = { firstByteMs = wait, firstTokenMs = wait, idleMs = wait, totalMs = wait },
    gateway = { listen = "127.0.0.1:" .. port, maxConnections = 12000, maxInFlight = 12000 },
    log = { level = "error" },
  })
  uv.fs_chmod(config, 384) -- 0600
  local process = shell.start{ BUILD .. "/deputy", "serve", "-c", config, env = { XDG_RUNTIME_DIR = dir } }
  wait_for(port)
  return { pid = process.pid, port = port, stop = function() process:stop() end }
end

-- ---- load

local function cpu_us(pid)
  local stat = tmp.read("/proc/" .. pid .. "/stat"):match("%) (.*)$")
  local n, ticks = 0, 0
  for field in stat:gmatch("%S+") do
    n = n + 1
    if n == 12 or n == 13 then ticks = ticks + tonumber(field) end
  end
  return ticks * 1e6 / TICKS
end

local function body_of(llm, stream)
  return cjson.encode{ model = llm, stream = stream or nil, messages = { QUESTION } }
end

local function request_of(path, body)
  return ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" ..
    "Content-Length: %d\r\n\r\n%s"):format(path, #body, body)
end

local in_ms = { us = 0.001, ms = 1, s = 1000 }

-- One run of wrk: requests a second, the 99th percentile in ms, the proxy's microseconds of CPU for each request, and
-- those of all that take part.
local function load_once(port, path, body, connections, pid)
  local script = tmp.write(dir, "post.lua", ("wrk.method = 'POST'\nwrk.body = %q\n" ..
    "wrk.headers['Content-Type'] = 'application/json'\n" ..
    "wrk.headers['Authorization'] = 'Bearer %s'\n"):format(body, TOKEN))
  local before, behind = cpu_us(pid), cpu_us(upstream.pid) + cpu_us(streams.pid)
  local run = shell.run{ "sh", "-c", '"$@" && times', "wrk", "wrk", "-t1", "-c" .. connections, "-d" .. SECONDS .. "s",
    "--latency", "-s", script, ("http://127.0.0.1:%d%s"):format(port, path), timeout_ms = SECONDS * 1000 + 10000 }
  local spent = cpu_us(pid) - before
  local others = cpu_us(upstream.pid) + cpu_us(streams.pid) - behind
  if run.status ~= 0 then error("wrk: " .. run.stdout .. run.stderr, 0) end
  if run.stdout:find("Non%-2xx") or run.stdout:find("Socket errors") then error(run.stdout, 0) end
  local requests = tonumber(run.stdout:match("(%d+) requests in"))
  for minutes, seconds in run.stdout:match("([^\n]*)\n?$"):gmatch("(%d+)m([%d.]+)s") do
    others = others + (tonumber(minutes) * 60 + tonumber(seconds)) * 1e6
  end
  local value, unit = run.stdout:match("99%%%s+([%d.]+)(%a+)")
  return { rate = tonumber(run.stdout:match("Requests/sec:%s+([%d.]+)")), p99 = tonumber(value) * in_ms[unit],
    cpu = spent / requests, all = (spent + others) / requests }
end

-- Both in turns; the median of each figure, and of the ratios of neighbours. other: { name, pid, port }.
local function compare(name, other, gw, llm, connections, bounds)
  local body, path = body_of(llm, bounds.stream), "/api/v1/llms/" .. llm .. "/infer"
  local found = { { rate = {}, p99 = {}, cpu = {}, all = {} }, { rate = {}, p99 = {}, cpu = {}, all = {} } }
  local ratios, p99s, by_cpu = {}, {}, {}
  for _ = 1, ROUNDS do
    local a = load_once(other.port, path, body, connections, other.pid)
    local b = load_once(gw.port, OURS, body, connections, gw.pid)
    for what in pairs(a) do
      table.insert(found[1][what], a[what])
      table.insert(found[2][what], b[what])
    end
    ratios[#ratios + 1], p99s[#p99s + 1], by_cpu[#by_cpu + 1] = b.rate / a.rate, b.p99 / a.p99, a.all / b.all
  end
  local unit = bounds.stream and "streams" or "requests"
  for i, who in ipairs{ other.name, "deputy" } do
    figure(("%s, %s: %s a second"):format(name, who, unit), median(found[i].rate), "/s")
    figure(("%s, %s: its own CPU for each"):format(name, who), median(found[i].cpu), "us")
    figure(("%s, %s: everybody's CPU for each"):format(name, who), median(found[i].all), "us")
    figure(("%s, %s: 99th percentile"):format(name, who), median(found[i].p99), "ms")
  end
  figure(("%s: rate beside %s"):format(name, other.name), median(ratios), "x", bounds.rate)
  figure(("%s: the same by everybody's CPU"):format(name), median(by_cpu), "x")
  figure(("%s: 99th percentile beside %s"):format(name, other.name), median(p99s), "x", bounds.p99, true)
end

-- ---- libcurl alone: what no gateway that is built on it can go below

local function libcurl_alone(name, method, path, requests)
  local found = {}
  for _ = 1, ROUNDS do
    local run = shell.run{ BUILD .. "/spec/bench/libcurl", ("http://127.0.0.1:%d%s"):format(central, path), method,
      tostring(requests), timeout_ms = 60000 }
    found[#found + 1] = assert(tonumber(run.stdout), run.stderr)
  end
  figure("libcurl alone, " .. name, median(found), "us")
end

-- ---- the first token, one stream after the other

local function first_token_us(c, request)
  local began = uv.hrtime()
  c:send(request)
  local text, took = "", nil
  while not text:find("0\r\n\r\n", -5, true) do
    c:settimeout(5)
    local one = assert(c:receive(1))
    c:settimeout(0)
    local more, _, part = c:receive(65536)
    text = text .. one .. (more or part or "")
    if not took and text:find("Once", 1, true) then took = (uv.hrtime() - began) / 1000 end
  end
  return took
end

local function first_tokens(gw)
  local body = body_of("flow", true)
  local ways = {
    { "upstream", tonumber(stream_port), "/api/v1/llms/flow/infer" }, { "nginx", proxy, "/api/v1/llms/flow/infer" },
    { "deputy", gw.port, OURS },
  }
  local medians = {}
  for _, way in ipairs(ways) do
    way.c = assert(socket.connect("127.0.0.1", way[2]))
    way.c:setoption("tcp-nodelay", true)
    way.took = {}
  end
  for _ = 1, 200 do
    for _, way in ipairs(ways) do way.took[#way.took + 1] = first_token_us(way.c, request_of(way[3], body)) end
  end
  for _, way in ipairs(ways) do
    medians[way[1]] = median(way.took) / 1000
    way.c:close()
    figure("first token, " .. way[1] .. ": median", medians[way[1]], "ms")
  end
  figure("first token: added to the upstream's own by deputy", medians.deputy - medians.upstream, "ms", 0.2, true)
  figure("first token: beside nginx", medians.deputy - medians.nginx, "ms", 1, true)
end

-- ---- memory

local function anonymous_kib(pid)
  return tonumber(tmp.read("/proc/" .. pid .. "/status"):match("RssAnon:%s*(%d+)"))
end

-- Each open stream takes two descriptors of the gateway.
local function most_streams()
  local hard = tonumber(tmp.read("/proc/self/limits"):match("Max open files%s+(%d+)")) or 1024
  return math.min(10000, (hard - 200) // 2)
end

local function idle_streams(gw)
  local before = anonymous_kib(gw.pid)
  figure("memory, idle", before / 1024, "MiB", 4, true)
  local count, begun, open = most_streams(), 0, {}
  local body = body_of("idle", true)
  local request = request_of(OURS, body)
  local failed
  for i = 1, count do
    local tcp = uv.new_tcp()
    open[i] = tcp
    tcp:connect("127.0.0.1", gw.port, function(err)
      if err then failed = err return end
      tcp:write(request)
      tcp:read_start(function(_, data)
        if not data then failed = failed or "closed"
        elseif data:find("Once", 1, true) then begun = begun + 1
        elseif not data:find("^HTTP/1.1 200") then failed = failed or data end
      end)
    end)
    shell.turn(function() return failed or begun >= i - 100 end, 20000)
  end
  shell.turn(function() return failed or begun >= count end, 30000)
  if failed or begun < count then error(("only %d of %d streams: %s"):format(begun, count, failed or "late"), 0) end
  local after = anonymous_kib(gw.pid)
  figure("memory, open idle streams", count, "")
  figure("memory, each open idle stream", (after - before) / count, "KiB", 40, true)
  for i = 1, count do open[i]:close() end
  uv.run("nowait")
end

-- ---- all of it

local function main()
  local nginx_proxy = { name = "nginx", pid = beside.pid, port = proxy }
  local gw = serve(central)
  compare("pass-through", nginx_proxy, gw, "up", 32, { rate = 0.6, p99 = 2 })
  compare("failover, fresh probe", nginx_proxy, gw, "down", 32, { rate = 1.0 })
  libcurl_alone("a request on a kept connection: CPU", "POST", "/api/v1/llms/up/infer", 10000 * SECONDS)
  libcurl_alone("a HEAD on a new connection: CPU", "HEAD", "/api/v1/llms/down", 4000 * SECONDS)
  local script = haproxy()
  if script then
    compare("failover, fresh probe", script, gw, "down", 32, { rate = 1.5 })
    script.stop()
  end
  gw:stop()
  gw = serve(central, { failures = 5, openMs = 600000 })
  compare("failover, breaker open", nginx_proxy, gw, "down", 32, { rate = 1.3 })
  gw:stop()
  gw = serve(stream_port)
  compare("64 streams of 500 events", nginx_proxy, gw, "flow", 64, { rate = 0.8, stream = true })
  first_tokens(gw)
  gw:stop()
  gw = serve(stream_port)
  idle_streams(gw)
  gw:stop()
end

local ok, why = xpcall(main, debug.traceback)
if not ok then print(why) end
os.exit(ok and over == 0 and 0 or 1)
