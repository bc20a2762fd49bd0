#!/usr/bin/env bash
# Starts the server on embedded defaults, waits until it is ready, and sends it demo traffic. Ctrl-C stops both.
set -euo pipefail
binary=$1
data=${PYFLARE_DATA_DIR:-./pyflare-data}
"$binary" serve --data-dir "$data" &
server=$!
trap 'kill -INT $server 2>/dev/null; wait $server' EXIT
for _ in $(seq 600); do
    [ -f "$data/endpoints.json" ] && grep -q "\"pid\":$server" "$data/endpoints.json" && break
    kill -0 $server 2>/dev/null || { trap - EXIT; wait $server; }
    sleep 0.2
done
http=$(sed -n 's/.*"otlp_http":"\([^"]*\)".*/\1/p' "$data/endpoints.json")
"$binary" demo --endpoint "http://$http"
