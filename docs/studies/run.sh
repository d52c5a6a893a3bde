#!/usr/bin/env bash
# One of the studies of docs/study.md: docs/studies/run.sh distance|gamma|device [DIR]
#
# The draft has processor 1 for itself; the target, the draft that is co-located with it and the coordinator share processor 0.
# Breaking off loses the round under way; the same command goes on.
set -euo pipefail

cd "$(dirname "$0")/../.."
name=${1:?which study: distance, gamma or device}
plan=docs/studies/$name.toml
output=${2:-target/studies/$name}

cargo build --release --locked -p coordinator -p draft-svc -p target-svc
bin=target/release

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait' EXIT
serve() { # processor, port, service, model
    taskset -c "$1" "$bin/$3" --model "$4" --threads 1 --listen "127.0.0.1:$2" &
    pids+=($!)
}
serve 1 7301 draft-svc embedded:draft
serve 0 7302 target-svc embedded:target
serve 0 7303 draft-svc embedded:draft
ports=(7301 7302 7303)
if grep -q 127.0.0.1:7305 "$plan"; then
    serve 1 7304 draft-svc embedded:target
    serve 0 7305 target-svc synthetic:grown-gpt2
    serve 0 7306 draft-svc embedded:target
    ports+=(7304 7305 7306)
fi
for port in "${ports[@]}"; do
    for _ in $(seq 600); do
        "$bin/outrider" health "http://127.0.0.1:$port" >/dev/null 2>&1 && break
        sleep 0.1
    done
done

taskset -c 0 "$bin/outrider" study "$plan" --output "$output"
