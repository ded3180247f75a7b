#!/usr/bin/env bash
# Makes ote/api from proto/. Usage: tools/generate.sh [OUT_DIR]; PYTHON names the interpreter with grpcio-tools.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${1:-.}"
bin="$(dirname "$("$python" -c 'import sys; print(sys.executable)')")"
rm -rf "$out/ote/api"
mkdir -p "$out/ote/api"
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -I proto \
  --python_out="$out" --grpc_python_out="$out" \
  --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
  $(find proto -name '*.proto' | sort)
find "$out/ote/api" -type d -exec touch {}/__init__.py \;
