#!/usr/bin/env bash
# Everything that needs the built server: real clients, the DuckDB oracle, kills, a real ClickHouse, the UI in Chromium.
set -euo pipefail
binary=$1
here=$(cd "$(dirname "$0")" && pwd)
"$here/../tools/setup.sh" tests
"$here/clients/install.sh" --quiet
"$here/support/python" "$here/oracle/planted_faults.py"
"$here/support/python" "$here/e2e/run.py" --binary "$binary"
"$here/support/python" "$here/clauses/run.py" --binary "$binary"
"$here/support/python" "$here/crash/planted_faults.py" --binary "$binary"
"$here/support/python" "$here/crash/run.py" --binary "$binary" --scenario fail-points --kills "${PYFLARE_KILLS:-24}" --rounds 1
"$here/support/python" "$here/clickhouse/run.py" --binary "$binary" --kills "${PYFLARE_STORE_KILLS:-3}" --seconds "${PYFLARE_STORE_KILL_SECONDS:-12}"
"$here/support/python" "$here/kafka/run.py" --binary "$binary"
"$here/support/python" "$here/rough/run.py" --binary "$binary"
"$here/support/python" "$here/tutorial/run.py" --binary "$binary"
# The UI that the binary carries, in real Chromium. Servers, ports and traffic are the suite's own.
ui="$here/../ui"
[ -d "$ui/node_modules" ] || (cd "$ui" && npm ci --no-audit --no-fund)
binary=$(realpath "$binary")
(cd "$ui" && PYFLARE_BINARY="$binary" timeout --kill-after=5 "${PYFLARE_UI_SECONDS:-300}" npm run --silent e2e:server)
