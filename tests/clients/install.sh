#!/usr/bin/env bash
# Installs the pinned clients into a cache folder outside the clone. Idempotent: a part whose
# pins did not change since it was installed is left alone.
#
#   tests/clients/install.sh [--only python|js|go]... [--quiet]
#
# The cache folder is $PYFLARE_CACHE/clients, default ~/.cache/pyflare/clients.
# A missing tool (node, go) is a printed skip; with CI=true it is a failure.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache="${PYFLARE_CACHE:-$HOME/.cache/pyflare}/clients"
telemetrygen_version=v0.155.0
builder_version=v0.155.0
parts=()
quiet=false

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --only) parts+=("${2:?--only needs python, js or go}"); shift 2 ;;
    --quiet) quiet=true; shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "install.sh: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(python js go)

say() { $quiet || echo "clients: $*"; }
missing() { # the tool, what to install
  if [ "${CI:-}" = true ]; then
    echo "clients: $1 is missing: $2" >&2
    exit 1
  fi
  echo "clients: skipped, $1 is missing: $2" >&2
}
stamp_of() { cat "$@" | cksum | tr ' ' '-'; }
installed() { [ -f "$cache/$1/.installed" ] && [ "$(cat "$cache/$1/.installed")" = "$2" ]; }

install_python() {
  # Tried one after the other: a version manager's shim may be on the path and refuse to run.
  local python=
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    missing "Python 3.11 or newer with venv" "install python3 and python3-venv"
    return
  fi
  local stamp
  stamp="$("$python" --version | tr ' ' '-')-$(stamp_of "$here/python/requirements.txt")"
  if installed python "$stamp"; then say "python: up to date"; return; fi
  say "python: installing $(grep -c == "$here/python/requirements.txt") pinned packages (about a minute)"
  rm -rf "$cache/python"
  "$python" -m venv "$cache/python"
  "$cache/python/bin/pip" install --quiet --no-deps --disable-pip-version-check -r "$here/python/requirements.txt"
  echo "$stamp" > "$cache/python/.installed"
  say "python: done"
}

install_js() {
  if ! command -v npm >/dev/null || ! node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))'; then
    missing "Node.js 20 or newer with npm" "install nodejs and npm"
    return
  fi
  local stamp
  stamp="$(node --version)-$(stamp_of "$here/js/package-lock.json")"
  if installed js "$stamp"; then say "js: up to date"; return; fi
  say "js: installing the OpenTelemetry SDK (a few seconds)"
  mkdir -p "$cache/js"
  rm -f "$cache/js/.installed"
  cp "$here/js/package.json" "$here/js/package-lock.json" "$here/js/.npmrc" "$cache/js/"
  (cd "$cache/js" && npm ci --silent --ignore-scripts)
  echo "$stamp" > "$cache/js/.installed"
  say "js: done"
}

install_go() {
  if ! command -v go >/dev/null; then
    missing "Go 1.25 or newer" "install golang"
    return
  fi
  local stamp
  stamp="$telemetrygen_version-$builder_version-$(stamp_of "$here/go/build.yaml")"
  if installed go "$stamp"; then say "go: up to date"; return; fi
  mkdir -p "$cache/go/bin"
  rm -f "$cache/go/.installed"
  say "go: building telemetrygen $telemetrygen_version (the first time about a minute)"
  GOBIN="$cache/go/bin" go install \
    "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@$telemetrygen_version"
  say "go: building the Collector $builder_version (the first time about two minutes)"
  GOBIN="$cache/go/bin" go install "go.opentelemetry.io/collector/cmd/builder@$builder_version"
  local work
  work=$(mktemp -d)
  cp "$here/go/build.yaml" "$work/"
  (cd "$work" && "$cache/go/bin/builder" --config build.yaml > build.log 2>&1) || { tail -30 "$work/build.log" >&2; exit 1; }
  mv "$work/dist/otelcol" "$cache/go/bin/otelcol"
  rm -rf "$work"
  echo "$stamp" > "$cache/go/.installed"
  say "go: done"
}

for part in "${parts[@]}"; do
  case "$part" in
    python|js|go) "install_$part" ;;
    *) echo "install.sh: --only takes python, js or go, not $part" >&2; exit 2 ;;
  esac
done
