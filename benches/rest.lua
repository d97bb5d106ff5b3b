-- For wrk: sends one request over and over, and prints what came of it as JSON; times in microseconds.
-- usage: wrk -s rest.lua <url> -- [<method> <body>]
function init(arguments)
    if arguments[1] then
        wrk.method, wrk.body = arguments[1], arguments[2]
        wrk.headers["Content-Type"] = "application/json"
    end
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"rate":%f,"p50":%d,"p99":%d,"p999":%d,"errors":%d}',
        summary.requests / summary.duration * 1e6,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout
    ))
end
