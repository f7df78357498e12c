#!/usr/bin/env bash
# Puts ONNX Runtime's C++ headers under DIR and prints their folder; installs nothing. For Debian-like systems whose own
# release has no libonnxruntime-dev: apt takes the package (headers of 1.21, which later libraries accept) from Debian 13
# at the mirror that it is set up for.
set -euo pipefail
[ $# = 1 ] || { echo "usage: fetch_headers.sh DIR" >&2; exit 2; }
mkdir -p "$1" && cd "$1"
mkdir -p lists/partial cache/archives/partial
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/*$')
echo "deb [signed-by=$keys] $mirror trixie main" > sources.list
options=(-qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists"
  -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update >&2
apt-get "${options[@]}" download libonnxruntime-dev >&2
dpkg-deb -x libonnxruntime-dev_*.deb package
[ -f package/usr/include/onnxruntime/onnxruntime_cxx_api.h ] || { echo "the package holds no C++ headers" >&2; exit 1; }
echo "$PWD/package/usr/include/onnxruntime"
