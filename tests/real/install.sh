#!/usr/bin/env bash
# Installs what the tests marked `real` need and the machine lacks. Debian's packages only as root and only missing ones;
# everything else goes into ~/.cache/ote (OTE_CACHE), nothing into the checkout. A second run changes nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache="${OTE_CACHE:-$HOME/.cache/ote}"
bin="$cache/bin"
mkdir -p "$bin"

GRPCURL=v1.9.3

have() { command -v "$1" >/dev/null; }
stop() { echo "error: $*" >&2; exit 1; }

packages() { # PROGRAM=PACKAGE …: installs the packages of the programs that are missing
  local pair missing=()
  for pair in "$@"; do have "${pair%%=*}" || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! have apt-get; then
    stop "missing: ${missing[*]}. Install them with this system's package manager, then run again"
  fi
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
}

sum() { cat "$@" | sha256sum | cut -c1-12; }

packages podman=podman runc=runc busybox=busybox-static go=golang-go node=nodejs npm=npm

if [ ! -x "$bin/grpcurl-$GRPCURL" ]; then
  echo "building grpcurl $GRPCURL"
  GOBIN="$bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL"
  mv "$bin/grpcurl" "$bin/grpcurl-$GRPCURL"
fi
ln -sf "grpcurl-$GRPCURL" "$bin/grpcurl"
