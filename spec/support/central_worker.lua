-- A central in a process of its own, for specs: lua5.4 spec/support/central_worker.lua DATABASE ask|write [PREFIX]
--   ask     reads requests, one JSON object a line (method, target, token, body, model), and answers each with its
--           status on a line: "forward" for inference that goes on
--   write   changes the database as fast as it can, and says each change on a line once it is acknowledged
package.path = "./lua/?.lua;" .. package.path
local cjson = require "cjson"

local url, task, prefix = table.unpack(arg)
io.stdout:setvbuf("line")

local app = assert(require("central.app").new{ db = url })
local service = app.service
local me = require("central.service").local_actor("worker")
print "ready"

local tasks = {}

function tasks.ask()
  for line in io.lines() do
    local request = cjson.decode(line)
    local reply = app:handle{
      method = request.method, target = request.target, authorization = "Bearer " .. request.token,
      body = request.body, content_type = "application/json", model = request.model, peer = "worker", id = "1",
    }
    app:tick()
    print(reply.forward and "forward" or reply.status)
  end
end

-- A busy database is tried again: only what went well counts.
local function insist(name, ...)
  for _ = 1, 50 do
    local result, why = service[name](service, me, ...)
    if result then return result end
    assert(why.status == 503, why.message)
  end
  error("the database stays busy")
end

function tasks.write()
  for i = 1, math.huge do
    local user, llm = ("%s-u%d"):format(prefix, i), ("%s-l%d"):format(prefix, i)
    print("user " .. insist("create_user", { name = user }).id)
    print("llm " .. insist("create_llm", { name = llm, url = "http://127.0.0.1:9/v1" }).id)
    print("binding " .. insist("grant", { user = user, role = "view", llm = llm }).id)
    local token = insist("create_token", { user = user })
    print("token " .. token.id)
    if i % 3 == 0 then
      insist("revoke_token", token.id)
      print("revoked " .. token.id)
    end
    if i % 4 == 0 then print("gone " .. insist("delete_llm", llm).id) end
    app:handle{ method = "HEAD", target = "/api/v1/llms/x", authorization = "Bearer " .. token.token }
    app:tick()
  end
end

tasks[task]()
