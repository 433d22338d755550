-- Probes of deputy central serve on SQLite: 10,000 LLMs, 10,000 users, 100,000 bindings. README.md says how to read
-- what it prints. Ends with 1 when a bound is not met.
--   BENCH_SECONDS   how long each load lasts (2)        BENCH_ROUNDS   how often (5)
--   BENCH_CPU, BENCH_LOAD_CPU   where the server and the load run
package.path = "./?.lua;./lua/?.lua;" .. package.path
local cjson = require "cjson"
local uv = require "luv"
local fill = require "spec.bench.central_fill"
local shell = require "spec.support.shell"
local store = require "central.store"
local tmp = require "spec.support.tmp"

local BUILD = os.getenv("DEPUTY_BUILD") or "build"
local SECONDS = tonumber(os.getenv("BENCH_SECONDS")) or 2
local ROUNDS = tonumber(os.getenv("BENCH_ROUNDS")) or 5
local CPU, LOAD_CPU = os.getenv("BENCH_CPU"), os.getenv("BENCH_LOAD_CPU")
local CONNECTIONS = "32"
local TICK_US = 10000 -- of /proc/PID/stat
local SIZE = { llms = 10000, users = 10000 }

local over = 0

-- bound nil: for information; below true: at most, else at least.
local function figure(name, value, unit, bound, below)
  local met = not bound or (below and value <= bound) or (not below and value >= bound)
  if not met then over = over + 1 end
  io.write(("%-62s %9.2f %-4s"):format(name, value, unit),
    bound and (" at %s %g: %s"):format(below and "most" or "least", bound, met and "ok" or "NOT MET") or "", "\n")
  io.flush()
end

-- ---- who takes part

local dir = tmp.dir()

local function matching(lines, status)
  local found = {}
  for _, line in ipairs(lines) do
    if line:sub(1, 3) == status then found[#found + 1] = line end
  end
  return found
end

local function write_lines(name, lines)
  return tmp.write(dir, name, table.concat(lines, "\n") .. "\n")
end

local function serve(name, db)
  local log = tmp.write(dir, name .. ".log", "")
  local config = { db = "sqlite:" .. db, listen = "127.0.0.1:0" }
  local path = tmp.write(dir, name .. ".json", cjson.encode(config))
  uv.fs_chmod(path, 384) -- 0600
  local process = shell.start{
    "sh", "-c", 'exec taskset -c "$0" "$@" 2>' .. log, CPU, BUILD .. "/deputy", "central", "serve", "-c", path,
  }
  local address
  for _ = 1, 1000 do
    address = tmp.read(log):match("msg=listening address=(%S+)")
    if address then break end
    uv.sleep(10)
  end
  assert(address, "deputy central serve did not start: " .. tmp.read(log))
  return { process = process, pid = process.pid, address = address }
end

local function make(name, bindings)
  local db = ("%s/%s.db"):format(dir, name)
  local ten, all = fill.make(db, { llms = SIZE.llms, users = SIZE.users, bindings = bindings })
  local c = serve(name, db)
  c.db, c.ten = db, write_lines(name .. ".ten", ten)
  c.allowed = write_lines(name .. ".allowed", matching(all, "200"))
  c.refused = write_lines(name .. ".refused", matching(all, "403"))
  return c
end

local function cpu_us(c)
  local fields = tmp.read("/proc/" .. c.pid .. "/stat"):match("%) %S (.*)")
  local user, system = fields:match(("%S+ "):rep(10) .. "(%d+) (%d+)")
  return (user + system) * TICK_US
end

-- One load: probes a second, the same by the server's own CPU, and the 99th percentile in ms.
local function load(c, probes, how)
  local host, port = c.address:match("^(.*):(%d+)$")
  local before = cpu_us(c)
  local r = shell.run{ timeout_ms = 60000, "taskset", "-c", LOAD_CPU, BUILD .. "/spec/bench/probe_load", host, port,
    CONNECTIONS, tostring(math.floor(SECONDS * 1000)), probes, how }
  local spent = cpu_us(c) - before
  local requests, wrong, p99 = r.stdout:match("requests=(%d+) wrong=(%d+) p50=%d+ p99=(%d+)")
  assert(requests, r.stderr)
  assert(wrong == "0", wrong .. " wrong answers")
  return { rate = requests / SECONDS, own = spent / requests, p99 = p99 / 1000 }
end

-- The loads in turns, the best of each: what else the machine does only ever adds.
local function measure(loads)
  local found = {}
  for name, args in pairs(loads) do
    load(table.unpack(args))
    found[name] = { rate = {}, own = {}, p99 = {} }
  end
  for _ = 1, ROUNDS do
    for name, args in pairs(loads) do
      local one = load(table.unpack(args))
      for what, list in pairs(found[name]) do list[#list + 1] = one[what] end
    end
  end
  for _, one in pairs(found) do
    one.rate = math.max(table.unpack(one.rate))
    one.own, one.p99 = math.min(table.unpack(one.own)), math.min(table.unpack(one.p99))
  end
  return found
end

-- ---- what is measured

local many, few = make("many", 100000), make("few", 10)

local found = measure{
  allowed = { many, many.allowed }, refused = { many, many.refused }, fresh = { many, many.allowed, "fresh" },
  ten_of_many = { many, many.ten }, ten_of_few = { few, few.ten },
}

figure("probes, 32 connections: a second", found.allowed.rate, "/s")
figure("  by its own CPU: a second of one core", 1e6 / found.allowed.own, "/s", 20000)
figure("  99th percentile", found.allowed.p99, "ms", 5, true)
figure("the same ten probes, 100000 bindings instead of 10: CPU", found.ten_of_many.own / found.ten_of_few.own, "x",
  1.2, true)
figure("refused ones (403, a log line, the audit log), by its own CPU", 1e6 / found.refused.own, "/s")
figure("a new connection for each, by its own CPU", 1e6 / found.fresh.own, "/s")

local TOUCH = "UPDATE subjects SET updated_at = updated_at WHERE name = ?"

-- Somebody else writes: then nothing that was found may be used again.
local writer = assert(store.open{ db = "sqlite:" .. many.db })
local timer = uv.new_timer()
timer:start(0, 100, function() writer:run(TOUCH, "user-00001") end)
local disturbed = {}
for i = 1, ROUNDS do disturbed[i] = load(many, many.allowed).own end
timer:close()
writer:close()
figure("while another process commits ten times a second: own CPU", 1e6 / math.min(table.unpack(disturbed)), "/s")

local status = tmp.read("/proc/" .. many.pid .. "/status")
figure("its memory", status:match("RssAnon:%s*(%d+)") / 1024, "MiB")

for _, c in ipairs{ many, few } do
  c.process:signal("sigterm")
  c.process:wait(5000)
end
os.exit(over == 0 and 0 or 1, true)
