-- The load: GET / with 1000 different users, written once in init(), so that
-- wrk does no string work per request and keeps its core for the backends.
-- 1009 and 100 share no divisor: exactly a tenth of the users are on the new side,
-- and neighbours in the list rarely are on the same one.

local USERS = 1000
local requests = {}
local last = 0

function init(_)
  for i = 1, USERS do
    requests[i] = wrk.format("GET", "/", {
      ["Host"] = wrk.headers["Host"],
      ["User-Agent"] = "wrk",
      ["Accept"] = "*/*",
      ["x-user-id"] = tostring(100000 + i * 1009),
    })
  end
end

function request()
  last = last % USERS + 1
  return requests[last]
end

-- One line of JSON for the script: the figures that wrk itself prints are rounded.
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "micros": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
