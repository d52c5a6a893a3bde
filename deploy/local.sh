#!/usr/bin/env bash
# Draft and target as separate processes on this machine, with the embedded pair, and how to talk to them.
# Usage: deploy/local.sh [PROMPT]     with a prompt: generate from it, then stop; without: run until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."

draft=${OUTRIDER_DRAFT_LISTEN:-127.0.0.1:7101}
target=${OUTRIDER_TARGET_LISTEN:-127.0.0.1:7102}

cargo build --release --bins
bin=${CARGO_TARGET_DIR:-target}/release

"$bin/draft-svc" --model embedded:draft --listen "$draft" &
draft_pid=$!
"$bin/target-svc" --model embedded:target --listen "$target" &
target_pid=$!
stop() {
    kill "$draft_pid" "$target_pid" 2>/dev/null || true
    wait "$draft_pid" "$target_pid" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT TERM

# A service answers Describe once its model is loaded.
for url in "http://$draft" "http://$target"; do
    for _ in $(seq 100); do
        sleep 0.1
        { kill -0 "$draft_pid" && kill -0 "$target_pid"; } 2>/dev/null || { echo "a service has stopped" >&2; exit 1; }
        "$bin/outrider" describe "$url" >/dev/null 2>&1 && continue 2
    done
    echo "$url does not answer" >&2
    exit 1
done

if [ $# -gt 0 ]; then
    "$bin/outrider" generate "$1" --draft "http://$draft" --target "http://$target"
    exit
fi
cat <<EOF

draft-svc (pid $draft_pid) and target-svc (pid $target_pid) are ready. In another terminal:

  $bin/outrider generate "ROMEO:" --draft http://$draft --target http://$target
  $bin/outrider bench --draft http://$draft --target http://$target
  $bin/outrider describe http://$target

With OTEL_EXPORTER_OTLP_ENDPOINT set for this script and for outrider, all three export to one trace.
Ctrl-C stops both.
EOF
wait
