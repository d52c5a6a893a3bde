#!/usr/bin/env bash
# One of the studies of docs/study.md: docs/studies/run.sh distance|grown|gamma|device [DIR [PROCESSOR]]
#
# The draft is on processor 1, the target and the draft that is co-located with it on processor 0. The coordinator shares the
# target's, or the draft's if PROCESSOR is 1, and comes first there if it may (root, or a limit on real-time priority): else what
# the draft sends while the target computes waits until it is done, and comes from farther away than it does.
# Neither processor goes to sleep: one that wakes up again is slower for a while, which is no part of the question.
# Breaking off loses the round under way; the same command goes on.
set -euo pipefail

cd "$(dirname "$0")/../.."
name=${1:?which study: distance, grown, gamma or device}
plan=docs/studies/$name.toml
output=${2:-target/studies/$name}
coordinator=${3:-0}

cargo build --release --locked -p coordinator -p draft-svc -p target-svc
bin=target/release

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait' EXIT
declare -A pid
start() { # processor, port, service, model
    grep -q "127.0.0.1:$2" "$plan" || return 0
    taskset -c "$1" "$bin/$3" --model "$4" --threads 1 --listen "127.0.0.1:$2" &
    pids+=($!)
    pid[$2]=$!
}
awake() { # processor: runs when nothing else wants it
    chrt --idle 0 taskset -c "$1" sh -c 'while :; do :; done' &
    pids+=($!)
}
start 1 7301 draft-svc embedded:draft
start 0 7302 target-svc embedded:target
start 0 7303 draft-svc embedded:draft
start 1 7304 draft-svc embedded:target
start 0 7305 target-svc synthetic:grown-gpt2
start 0 7306 draft-svc embedded:target
for port in "${!pid[@]}"; do
    for _ in $(seq 600); do
        kill -0 "${pid[$port]}" 2>/dev/null || { echo "the service for 127.0.0.1:$port has stopped" >&2; exit 1; }
        "$bin/outrider" health "http://127.0.0.1:$port" >/dev/null 2>&1 && break
        sleep 0.1
    done
done
# What answers may be another process that has the address, so that ours has ended.
sleep 0.5
for running in "${pid[@]}"; do
    kill -0 "$running" || { echo "a service has stopped: is something else at its address?" >&2; exit 1; }
done

awake 0
awake 1
sleep 0.1
kill -0 "${pids[@]:(-2)}" || { echo "the processors cannot be kept awake" >&2; exit 1; }
first=(chrt --fifo 1)
"${first[@]}" true 2>/dev/null || { first=(); echo "the coordinator does not come first: branches will be late" >&2; }
taskset -c "$coordinator" "${first[@]}" "$bin/outrider" study "$plan" --output "$output"
