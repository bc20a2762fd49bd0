#!/usr/bin/env bash
# Makes sure that what the build needs is there: installs it where it may, else says what to install.
set -euo pipefail

missing=()
command -v clang >/dev/null || missing+=(clang)
command -v mold >/dev/null || missing+=(mold)
command -v cmake >/dev/null || missing+=(cmake)
command -v pkg-config >/dev/null || missing+=(pkg-config)
pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
if [ "${1:-}" = tests ]; then
    command -v promtool >/dev/null || missing+=(prometheus)
    command -v chromium >/dev/null || missing+=(chromium)
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing+=(faketime)
fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "Please install: ${missing[*]} (Debian, Ubuntu: sudo apt-get install ${missing[*]})" >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null; then
    echo "Please install Rust 1.95 or newer with rustup (https://rustup.rs), then run this again." >&2
    exit 1
fi
if ! command -v node >/dev/null || [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
    echo "Please install Node.js 20 or newer with npm (it builds the web UI), then run this again." >&2
    exit 1
fi
