#!/usr/bin/env bash
# Builds the shim from the contract. Usage: build.sh OUT_DIR; makes OUT_DIR/ote-memory-shim. Nothing is written beside
# the sources. Needs Go, and protoc or a Python with grpcio-tools (PYTHON names it).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
proto="$here/../../../proto"
out="$(mkdir -p "${1:?usage: build.sh OUT_DIR}" && cd "$1" && pwd)"

rm -rf "$out/src"
mkdir -p "$out/src" "$out/bin"
cp "$here"/*.go "$here/go.mod" "$here/go.sum" "$out/src/"
cd "$out/src"

# The generators are pinned in go.mod like everything else.
go build -o "$out/bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

protoc=(protoc)
command -v protoc >/dev/null || protoc=("${PYTHON:-python3}" -m grpc_tools.protoc)
files=(ote/api/command/v1/command.proto ote/api/shim/v1/shim.proto)
module=example.com/ote-memory-shim
mapping="Mote/api/command/v1/command.proto=$module/commandv1,Mote/api/shim/v1/shim.proto=$module/shimv1"
PATH="$out/bin:$PATH" "${protoc[@]}" -I "$proto" \
  --go_out=. --go_opt="module=$module,$mapping" \
  --go-grpc_out=. --go-grpc_opt="module=$module,$mapping" "${files[@]}"

go build -o "$out/ote-memory-shim" .
