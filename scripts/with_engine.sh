#!/usr/bin/env bash
# Runs a command where a container engine answers: `with_engine.sh [--optional] COMMAND ...`.
#
# COMPOSE_ENGINE is a script that prepares an engine and its base images with `up` and ends it with `down`; by default it is
# ../shared/compose-engine.sh, where there is one. Without it, the engine that runs is taken as it is.
# With --optional the command is skipped, and that is said, where no engine can be had.
set -euo pipefail
optional=false
if [ "$1" = --optional ]; then optional=true; shift; fi
engine=${COMPOSE_ENGINE:-../shared/compose-engine.sh}

give_up() {
  if $optional; then echo "SKIPPED: $*: $reason"; exit 0; fi
  echo "$*: $reason" >&2
  exit 1
}

if docker version >/dev/null 2>&1; then
  was_running=true
else
  was_running=false
fi
if [ -x "$engine" ]; then
  log=$(mktemp)
  if ! timeout 1200 "$engine" up >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm "$log"
    reason="$engine could not prepare an engine"
    give_up "$@"
  fi
  rm "$log"
  $was_running || trap '"$engine" down' EXIT
elif ! $was_running; then
  reason="no container engine answers; start one, or let COMPOSE_ENGINE name a script that does"
  give_up "$@"
fi
if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
  reason="neither 'docker compose' nor docker-compose is installed"
  give_up "$@"
fi
"$@"
