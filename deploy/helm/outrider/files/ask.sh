# Asks the coordinator at URL whether it is ready, and for a completion. CA, CERT and KEY are files, or empty, and so is KEYS, of
# which the first key is sent.
set -eu

ask() {
    path=$1
    shift
    curl --fail-with-body --silent --show-error --max-time 60 --retry 5 --retry-all-errors \
        ${CA:+--cacert "$CA"} ${CERT:+--cert "$CERT" --key "$KEY"} "$@" --url "$URL$path"
    echo
}

# A header for curl's standard input: arguments can be seen by others.
authorization() {
    if [ -n "$KEYS" ]; then
        printf 'Authorization: Bearer %s\n' "$(grep -v -e '^[[:space:]]*#' -e '^[[:space:]]*$' "$KEYS" | head -n 1)"
    fi
}

ask /readyz
answer=$(authorization | ask /v1/completions --header @- --header 'Content-Type: application/json' \
    --data '{"prompt": "ROMEO:", "max_tokens": 16, "seed": 7}')
echo "$answer"
case $answer in
    *'"finish_reason"'*) ;;
    *) echo 'this is no completion' >&2; exit 1 ;;
esac
