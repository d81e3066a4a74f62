#!/bin/sh
# Fuzz both decoders, guided by coverage, then measure branch coverage of what the corpus reaches.
#
#   fuzz/run.sh [SECONDS for each, 600 by default]
#
# Needs clang with libFuzzer (Debian: clang-14 libclang-rt-14-dev llvm-14) and atheris; a part whose tool is
# absent is left out with a message. Findings end the run with a status above 0 and stay in fuzz/findings.
set -eu
cd "$(dirname "$0")/.."
SECONDS_EACH=${1:-600}
CORPUS=fuzz/corpus
FINDINGS=fuzz/findings
BUILD=$(mktemp -d)
trap 'rm -rf "$BUILD"' EXIT
PYTHON=python
[ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
say() { printf 'fuzz: %s\n' "$*"; }

mkdir -p "$CORPUS/c" "$CORPUS/packet" "$FINDINGS"
"$PYTHON" fuzz/seeds.py "$CORPUS"

CLANG=$(command -v clang || command -v clang-14 || true)
if [ -n "$CLANG" ] && "$CLANG" -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -g -O1 \
    fuzz/c_decoder.c -o "$BUILD/c_decoder" 2>"$BUILD/log"; then
    say "C decoder, $SECONDS_EACH s, AddressSanitizer and UndefinedBehaviorSanitizer"
    "$BUILD/c_decoder" -max_total_time="$SECONDS_EACH" -rss_limit_mb=512 -timeout=5 -max_len=20000 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="$FINDINGS/c-" "$CORPUS/c"
    PROFDATA=$(command -v llvm-profdata || command -v llvm-profdata-14 || true)
    COV=$(command -v llvm-cov || command -v llvm-cov-14 || true)
    if [ -n "$PROFDATA" ] && [ -n "$COV" ]; then
        "$CLANG" -fsanitize=fuzzer -fprofile-instr-generate -fcoverage-mapping -O0 fuzz/c_decoder.c -o "$BUILD/cov"
        LLVM_PROFILE_FILE="$BUILD/profile" "$BUILD/cov" -runs=0 -verbosity=0 "$CORPUS/c"
        "$PROFDATA" merge "$BUILD/profile" -o "$BUILD/merged"
        "$COV" report "$BUILD/cov" -instr-profile="$BUILD/merged" --show-branch-summary 2>/dev/null |
            awk '/multiscale_decode.c/ {print "fuzz: C decoder branch coverage " $NF " (lines " $10 ")"}'
    else
        say "no llvm-profdata and llvm-cov: C coverage is not measured (Debian: llvm-14)"
    fi
else
    say "no clang with libFuzzer: the C decoder is left out (Debian: apt-get install clang-14 libclang-rt-14-dev)"
fi

if "$PYTHON" -c 'import atheris' 2>/dev/null; then
    say "packet decoder, $SECONDS_EACH s"
    "$PYTHON" fuzz/packet_decoder.py -max_total_time="$SECONDS_EACH" -rss_limit_mb=2048 -timeout=10 \
        -max_len=20000 -print_final_stats=1 -verbosity=0 -artifact_prefix="$FINDINGS/packet-" "$CORPUS/packet"
else
    say "no atheris: the packet decoder is not fuzzed (pip install atheris)"
fi
"$PYTHON" -m coverage run --branch --data-file="$BUILD/coverage" --source=multiscale \
    fuzz/packet_decoder.py --corpus "$CORPUS/packet"
"$PYTHON" fuzz/coverage_report.py "$BUILD/coverage"
