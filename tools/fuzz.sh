#!/usr/bin/env bash
# Fuzzes the decoder for so many seconds, with the stable compiler: libFuzzer needs no more than coverage
# counters, which LLVM's own pass adds. The recorded requests are the seeds; what it finds stays in the corpus.
set -euo pipefail
seconds=${1:-600}
fuzz=$(cd "$(dirname "$0")/../operators/fuzz" && pwd)
target=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS="--cfg fuzzing $coverage -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"
cd "$fuzz"
${CARGO:-cargo} build --release --target "$target" --bin decode
built=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
mkdir -p corpus artifacts
# A body of up to 64 kB in at most 10 s and 1 GiB; the first crash ends it and leaves the body in artifacts/.
exec "$built/$target/release/decode" corpus ../../tests/fixtures/otlp -artifact_prefix=artifacts/ \
    -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 ${FUZZ_FLAGS:-}
