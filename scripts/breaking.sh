#!/usr/bin/env bash
# Compares the contract with the one of the last release tag (v*); a break fails. Without a release there is nothing to break.
set -euo pipefail
tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)
if [ -z "$tag" ]; then
  echo "buf breaking: there is no release tag yet, nothing to compare with"
  exit 0
fi
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git archive "$tag" buf.yaml protos | tar -x -C "$before"
cp -r third_party "$before"
.venv/bin/buf breaking --against "$before"
