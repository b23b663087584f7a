#!/usr/bin/env bash
# Open-loop load on one pool: so many requests a second, whether or not the answers keep up.
#
#   benchmarks/vegeta/run.sh http://127.0.0.10:PORT/default/open [RATE] [DURATION]
#
# Prints vegeta's report, as JSON with JSON=1. Exit 1 unless every request succeeded. The vegeta on PATH
# is used, else the one of `go install`, else it is built; exit 77 (SKIPPED) where there is no Go.
set -euo pipefail
VERSION=v12.13.0
URL=${1:?where Envoy serves a pool, e.g. http://127.0.0.10:10000/default/open}
RATE=${2:-100}
DURATION=${3:-10s}
HERE=$(cd "$(dirname "$0")" && pwd)
export URL HERE

PATH=$PATH:/usr/local/go/bin:${GOPATH:-$HOME/go}/bin
if ! command -v vegeta > /dev/null; then
  if ! command -v go > /dev/null; then
    echo "SKIPPED: neither vegeta nor go: go install github.com/tsenart/vegeta/v12@$VERSION" >&2
    exit 77
  fi
  echo "building vegeta $VERSION ..." >&2
  go install "github.com/tsenart/vegeta/v12@$VERSION" >&2
fi

results=$(mktemp)
trap 'rm -f "$results"' EXIT
sed -e "s|\${URL}|$URL|" -e "s|\${HERE}|$HERE|" "$HERE/targets.http" |
  vegeta attack -format=http -rate="$RATE" -duration="$DURATION" -timeout=30s -max-workers=1000 > "$results"
report=$(vegeta report -type=json < "$results")
if [ "${JSON:-}" = 1 ]; then echo "$report"; else vegeta report < "$results"; fi
case $report in *'"success":1,'*) ;; *) echo "not every request succeeded" >&2; exit 1 ;; esac
