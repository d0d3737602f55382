-- One kind of request for wrk, in the name of one node after the other; the file of its argument has a line
-- for each: METHOD, PATH, NODE'S ADDRESS and BODY, parted by tabs.
local requests, at = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local method, path, address, body = line:match("([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)")
    local headers = { ["X-Simulated-Node"] = address, ["Content-Type"] = "application/json" }
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format("FIGURES %f %f %f %d %d\n", summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
