#!/usr/bin/env bash
# Installs h2load for the benchmark and its test, on Debian and as root; elsewhere that test is skipped without it.
set -euo pipefail
if command -v h2load >/dev/null || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nghttp2-client >/dev/null
