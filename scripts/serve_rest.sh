#!/usr/bin/env bash
# Runs the service and the gateway until one of them ends or a signal comes; then ends both and waits for them.
set -uo pipefail
stopping=
stop() {
  stopping=1
  trap '' INT TERM HUP # from now on we only wait
  kill -TERM "$service" "$gateway" 2>/dev/null
}

.venv/bin/python -m service &
service=$!
GATEWAY_SERVICE=${GATEWAY_SERVICE:-${LISTEN:-127.0.0.1:50051}} gateway/bin/fitserve-gateway &
gateway=$!
trap stop INT TERM HUP

wait -n "$service" "$gateway"
code=$?
if [ -n "$stopping" ]; then
  code=0 # wanted
else
  stop
fi
wait "$service" "$gateway"
exit "$code"
