#!/usr/bin/env bash
# Compares random queries over random rows with DataFusion's batch, by fresh seeds, for so many seconds. The first
# difference ends it, with the command that repeats it; at the end the pairs and the reasons for which queries were refused.
set -euo pipefail
seconds=${1:-600}
pairs=${FUZZ_PAIRS:-2500}
cd "$(dirname "$0")/.."
test=random::random_queries_equal_the_batch
cargo=${CARGO:-cargo}
built=$($cargo test --release --workspace --test engine_oracle --no-run --message-format=json \
    | sed -n 's/.*"executable":"\([^"]*engine_oracle-[^"]*\)".*/\1/p' | tail -1)
[ -x "$built" ] || { echo "the test engine_oracle was not built" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: > "$scratch/all"
begun=$SECONDS
runs=0
while [ $((SECONDS - begun)) -lt "$seconds" ]; do
    seed=$(($(od -An -N4 -tu4 /dev/urandom) % 1000000000 + 1000))
    if ! PYFLARE_SEED=$seed PYFLARE_PAIRS=$pairs "$built" --exact "$test" --nocapture > "$scratch/run" 2>&1; then
        cat "$scratch/run"
        # The run that begins at the seed of the message is enough.
        at=$(sed -n 's/^seed \([0-9]*\)[,:].*/\1/p' "$scratch/run" | head -1)
        echo "repeat it by: PYFLARE_SEED=${at:-$seed} PYFLARE_PAIRS=$([ -n "$at" ] && echo 1 || echo "$pairs") $cargo test --release --workspace --test engine_oracle -- --exact $test --nocapture" >&2
        exit 1
    fi
    runs=$((runs + 1))
    echo "seed $seed: $(grep 'pairs compared' "$scratch/run" | sed 's/^.*\.\.\. *//; s/:$//')"
    sed -n 's/^ *\([0-9][0-9]* PF-.*\)$/\1/p' "$scratch/run" >> "$scratch/all"
    grep 'pairs compared' "$scratch/run" >> "$scratch/sums"
done
[ "$runs" -gt 0 ] || { echo "no time for a run" >&2; exit 1; }
sed 's/^.*\.\.\. *//' "$scratch/sums" | awk -v runs="$runs" '{ pairs += $1; queries += $4 } END { print pairs " pairs of " queries " queries in " runs " runs, no difference; refused:" }'
awk '{ count = $1; $1 = ""; refused[$0] += count } END { for (reason in refused) printf "%8d%s\n", refused[reason], reason }' "$scratch/all" | sort -rn
