#!/usr/bin/env bash
# Fuzzes the loaders: fuzz/run.sh onnx|bundle SECONDS. Needs the Python environment (.venv), the built program, and cargo-fuzz
# (cargo install cargo-fuzz); any toolchain will do.
# Seeds are the conformance cases and the small bundle in fuzz/seeds; findings go to fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1 seconds=$2
corpus=fuzz/corpus/$target
mkdir -p "$corpus"
options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048)
case $target in
onnx)
    cases=${CARGO_TARGET_DIR:-target}/conformance
    python -m exporters.conformance "$cases"
    find "$cases" -name '*.onnx' -size -8k -print0 |
        while IFS= read -r -d '' file; do cp "$file" "$corpus/$(sha1sum <"$file" | cut -c1-16)"; done
    cp fuzz/seeds/bundle/model.onnx "$corpus/network"
    "${CARGO_TARGET_DIR:-target}/release/scdd" ops --json | python -c 'import json, sys; [print(json.dumps(row["operator"])) for row in json.load(sys.stdin)]' >fuzz/corpus/onnx.dict
    options+=(-max_len=8192 -dict=fuzz/corpus/onnx.dict)
    ;;
bundle)
    files=(manifest.yaml bn_stats.safetensors golden.safetensors model.onnx)
    for which in "${!files[@]}"; do
        { printf %d "$which"; cat "fuzz/seeds/bundle/${files[$which]}"; } >"$corpus/${files[$which]}"
    done
    # Every try writes files; in memory that is ten times faster.
    if [ -d /dev/shm ]; then export TMPDIR=/dev/shm; fi
    options+=(-max_len=32768)
    ;;
esac
# Rust's own checks stay on; an address sanitizer would only watch libtorch.
exec cargo fuzz run --sanitizer none "$target" -- "${options[@]}"
