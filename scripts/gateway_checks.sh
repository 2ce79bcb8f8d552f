#!/usr/bin/env bash
# The gateway's own checks, where there are Go and npm: `gateway_checks.sh lint` or `gateway_checks.sh test`.
set -euo pipefail
if ! command -v go >/dev/null || ! command -v npm >/dev/null; then
  echo "the gateway is not checked: that needs go and npm"
  exit 0
fi
make --silent gateway
case $1 in
  lint)
    unformatted=$(gofmt -l gateway/main.go gateway/docs gateway/internal)
    if [ -n "$unformatted" ]; then
      echo "not formatted by gofmt: $unformatted" >&2
      exit 1
    fi
    go -C gateway vet ./...
    ;;
  test) go -C gateway test ./... ;;
esac
