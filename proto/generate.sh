#!/usr/bin/env bash
# Makes ote/api from proto/. Usage: proto/generate.sh [OUT_DIR]; PYTHON names the interpreter with grpcio-tools.
# Everything is generated aside and then put in place at once, so that a failure leaves the old code as it was.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${1:-.}"
bin="$(dirname "$("$python" -c 'import sys; print(sys.executable)')")"
fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
# shellcheck disable=SC2046  # the paths of proto files have no spaces
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -I proto \
  --python_out="$fresh" --grpc_python_out="$fresh" \
  --mypy_out="quiet:$fresh" --mypy_grpc_out="quiet:$fresh" \
  $(find proto -name '*.proto' | LC_ALL=C sort)
find "$fresh/ote/api" -type d -exec touch {}/__init__.py \;
mkdir -p "$out/ote"
rm -rf "$out/ote/api"
mv "$fresh/ote/api" "$out/ote/api"
