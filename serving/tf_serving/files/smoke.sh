#!/usr/bin/env bash
# Makes each kind of call to a model server once, by curl and over gRPC, and prints the results. Exit status 0: all passed.
#   ./smoke.sh MODEL IMAGE...             starts the containers of the compose file beside this script first
#   ./smoke.sh --running MODEL IMAGE...   calls a server that runs already
# SERVING_REST and SERVING_GRPC are its addresses (localhost:8501, localhost:8500), GRAFTLINE is the gRPC client's command.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --running ]; then start=no; shift; else start=yes; fi
if [ $# -lt 2 ]; then sed -n '3,5s/^# *//p' "$0" >&2; exit 2; fi
model=$1; shift
if [ -f "$here/.env" ]; then . "$here/.env"; fi
rest=${SERVING_REST:-localhost:${GRAFTLINE_REST_PORT:-8501}}
grpc=${SERVING_GRPC:-localhost:${GRAFTLINE_GRPC_PORT:-8500}}
url=http://$rest/v1/models/$model
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $1" >&2; if [ -s "$work/answer" ]; then head -c 500 "$work/answer" >&2; echo >&2; fi; exit 1; }

# ask STATUS WHAT CURL-ARGUMENTS...: store the answer in $work/answer, and require that status
ask() {
  local want=$1 what=$2 got
  shift 2
  got=$(curl --silent --show-error --max-time 60 --output "$work/answer" --write-out '%{http_code}' "$@") || fail "$what: no answer"
  [ "$got" = "$want" ] || fail "$what: HTTP $got, not $want"
  echo "ok: $what"
}

# Print the label of the first image.
label() { grep -o '"label": *"[^"]*"' "$work/answer" | head -n 1 | cut -d '"' -f 4 || true; }

has() { grep -q -e "$1" "$work/answer" || fail "the answer has no $1"; }

if [ "$start" = yes ]; then
  docker compose --project-directory "$here" up --detach --wait
fi

ask 200 "status of $model" "$url"
has '"state": *"AVAILABLE"'
ask 200 "metadata" "$url/metadata"
has '"serving_default"'

for image in "$@"; do
  { printf '{"instances": [{"b64": "'; base64 "$image" | tr -d '\n'; printf '"}]}'; } > "$work/request"
  ask 200 "predict $image over REST" --data-binary "@$work/request" "$url:predict"
  by_rest=$(label)
  [ -n "$by_rest" ] || fail "no label in the answer"
  "${GRAFTLINE:-graftline}" predict --server "$grpc" --name "$model" --json "$image" > "$work/answer" || fail "predict over gRPC"
  by_grpc=$(label)
  [ "$by_rest" = "$by_grpc" ] || fail "$image is '$by_rest' over REST and '$by_grpc' over gRPC"
  echo "ok: predict $image over gRPC, $by_grpc as over REST"
done

for label in stable canary; do
  ask 200 "predict by the label $label" --data-binary "@$work/request" "$url/labels/$label:predict"
done

# Sixteen requests at once, which the server may batch. Each must get its own answer.
sixteen=()
for number in $(seq 16); do
  curl --silent --fail --max-time 60 --output "$work/$number" --data-binary "@$work/request" "$url:predict" &
  sixteen+=($!)
done
for job in "${sixteen[@]}"; do wait "$job" || fail "one of sixteen requests at once"; done
for number in $(seq 16); do grep -q "\"label\": *\"$by_rest\"" "$work/$number" || fail "one of sixteen answers has another label"; done
echo "ok: sixteen requests at once"

ask 400 "bytes that are no image are refused" --data-binary '{"instances": [{"b64": "AAAA"}]}' "$url:predict"
ask 404 "a model that does not exist is refused" --data-binary "@$work/request" "http://$rest/v1/models/no-such-model:predict"
ask 200 "and the server still answers" --data-binary "@$work/request" "$url:predict"
ask 200 "metrics" "http://$rest/monitoring/prometheus/metrics"
has ':tensorflow:serving:request_count'
