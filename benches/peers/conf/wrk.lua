-- wrk prints three digits; this prints them all, as one line of JSON. Without a `request` function wrk sends the same
-- bytes every time and runs no Lua while it measures.
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('\n{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
        '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
