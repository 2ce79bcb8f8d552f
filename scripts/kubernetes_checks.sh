#!/usr/bin/env bash
# Builds deploy/kubernetes and compares every object with Kubernetes' own schemas; `kubernetes_checks.sh [UV]`.
set -euo pipefail
uv=${1:-uv}
if command -v kubectl >/dev/null; then
  build=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
  build=(kustomize build)
else
  echo "SKIPPED: deploy/kubernetes is not checked: that needs kubectl or kustomize"
  exit 0
fi
objects=$(mktemp --suffix=.yaml)
trap 'rm -f "$objects"' EXIT
"${build[@]}" deploy/kubernetes >"$objects"
"$uv" tool run -q --from kubernetes-validate==1.37.0 kubernetes-validate --strict --quiet "$objects"
