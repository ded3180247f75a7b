#!/usr/bin/env bash
# Installs the shim with its packages and the contract. Usage: build.sh OUT_DIR; then: node OUT_DIR/main.js --listen …
# Nothing is written beside the sources. Needs Node and npm.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="$(mkdir -p "${1:?usage: build.sh OUT_DIR}" && cd "$1" && pwd)"

rm -rf "$out/proto"
cp "$here"/*.js "$here/package.json" "$here/package-lock.json" "$out/"
cp -R "$here/../../../proto" "$out/proto"
cd "$out"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
