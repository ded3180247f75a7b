#!/usr/bin/env bash
# Installs what the tests marked `real` need and the machine lacks. Debian's packages only as root and only missing ones;
# everything else goes into ~/.cache/ote (OTE_CACHE), nothing into the checkout. A second run changes nothing.
# PYTHON names the interpreter with grpcio-tools, for the example in Go.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache="${OTE_CACHE:-$HOME/.cache/ote}"
bin="$cache/bin"
mkdir -p "$bin"

GRPCURL=v1.9.3

have() { command -v "$1" >/dev/null; }
stop() { echo "error: $*" >&2; exit 1; }

again() { # COMMAND …: up to three times, for registries that fail for a moment
  local pause
  for pause in 5 20; do
    "$@" && return
    echo "failed: $*; trying again in $pause s" >&2
    sleep "$pause"
  done
  "$@"
}
install_packages() {
  apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" >/dev/null
}

packages() { # PROGRAM=PACKAGE …: installs the packages of the programs that are missing
  local pair missing=()
  for pair in "$@"; do have "${pair%%=*}" || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! have apt-get; then
    stop "missing: ${missing[*]}. Install them with this system's package manager, then run again"
  fi
  echo "installing ${missing[*]}"
  again install_packages "${missing[@]}"
}

packages podman=podman runc=runc busybox=busybox-static node=nodejs npm=npm
have go || stop "missing: Go, of the version in examples/shims/go/go.mod or newer"

if [ ! -x "$bin/grpcurl-$GRPCURL" ]; then
  echo "building grpcurl $GRPCURL"
  again env GOBIN="$bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL"
  mv "$bin/grpcurl" "$bin/grpcurl-$GRPCURL"
fi
ln -sf "grpcurl-$GRPCURL" "$bin/grpcurl"

example() { # LANGUAGE: builds that example of a shim, again when its sources or the contract changed
  local out="$cache/example-shims/$1" sources
  sources="$(find "examples/shims/$1" proto -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)"
  [ "$(cat "$out/made-from" 2>/dev/null)" != "$sources" ] || return 0
  echo "building the example shim in $1"
  rm -rf "$out"
  again "examples/shims/$1/build.sh" "$out"
  echo "$sources" >"$out/made-from"
}

example go
example node
