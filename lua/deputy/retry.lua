-- When the primary is asked once more, and after how long.
--
--   local ms = retry.wait_ms(failure, run, 1)
--   if ms then
--     run:sleep(ms)
--     reply, failure = run:primary()
--   end
--
-- Only for what is over quickly and left nothing behind: a connection that was refused or reset before the reply began,
-- and statuses that say "not now". Never for a silent primary (it may still be working), never once part of a reply has
-- come, and never past the run's deadline.
local M = {}

local SOON_KIND = { connect = true, dns = true, tls = true }
local SOON_STATUS = { [408] = true, [425] = true, [500] = true, [502] = true, [503] = true, [504] = true, [529] = true }

M.BACKOFF_MS = 200 -- before the first retry at most; doubles with each further one
M.LONGEST_RETRY_AFTER_S = 5 -- whoever asks for more will not be back soon

--- Does this failure pass by itself? 429 only counts with a Retry-After (RFC 9110 section 10.2.3), which says when.
function M.is_passing(failure)
  local kind = failure.kind
  if kind ~= "status" then return SOON_KIND[kind] == true end
  local status = failure.status
  return SOON_STATUS[status] == true or (status == 429 and failure.retry_after ~= nil)
end

--- Half to all of the backoff, at random, so that many callers do not come back together.
function M.backoff_ms(attempt, chance)
  return M.BACKOFF_MS * 2 ^ (attempt - 1) * (1 + (chance or random)()) / 2
end

--- Milliseconds to wait before the primary is asked again, or nil: not again. `retries` is how often at most; the clock
--- and the source of chance are the script's globals unless they are given.
function M.wait_ms(failure, run, retries, clock, chance)
  if retries == 0 or not M.is_passing(failure) then return nil end
  local attempt = run.attempt
  if attempt > retries then return nil end

  local ms = M.backoff_ms(attempt, chance)
  local after = failure.retry_after
  if after and after > M.LONGEST_RETRY_AFTER_S then return nil end
  if after then ms = after * 1000 + ms / 10 end

  local left_ms = (run.deadline - (clock or now)()) * 1000
  return ms < left_ms and ms or nil
end

return M
