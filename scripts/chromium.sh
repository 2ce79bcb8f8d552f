#!/usr/bin/env bash
# Installs Chromium and its driver for the test of /docs, on Debian and as root; elsewhere that test is skipped without them.
set -euo pipefail
if command -v chromedriver >/dev/null || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
