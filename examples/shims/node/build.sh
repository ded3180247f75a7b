#!/usr/bin/env bash
# Installs the shim with its packages and the contract. Usage: build.sh OUT_DIR; then: node OUT_DIR/main.js --listen …
# Nothing is written beside the sources. Needs Node and npm, and protoc or a Python with grpcio-tools (PYTHON names it).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="$(mkdir -p "${1:?usage: build.sh OUT_DIR}" && cd "$1" && pwd)"

rm -rf "$out/proto"
cp "$here"/*.js "$here/package.json" "$here/package-lock.json" "$out/"
cp -R "$here/../../../proto" "$out/proto"
cd "$out"
npm ci --prefer-offline --ignore-scripts --no-audit --no-fund --loglevel=error

protoc=(protoc)
command -v protoc >/dev/null || protoc=("${PYTHON:-python3}" -m grpc_tools.protoc)
"${protoc[@]}" -I proto -I node_modules/grpc-health-check/proto --include_imports \
  --descriptor_set_out=descriptors.binpb ote/api/shim/v1/shim.proto health/v1/health.proto
