#!/bin/sh
# Installs libdevrx for C programs: both libraries, the header, the pkg-config file.
#
#   cargo build --release --package devrx-capi
#   tools/client/capi/install.sh target/release /usr/local
#
# DESTDIR, if set, is put before the prefix, for packages.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 BUILD-FOLDER PREFIX" >&2
    exit 2
fi
build=$1
prefix=$2
here=$(cd "$(dirname "$0")" && pwd)
to=${DESTDIR:-}$prefix
abi=$(sed -n 's/^#define DEVRX_ABI_VERSION \([0-9]*\)u$/\1/p' "$here/include/devrx.h")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$here/../../../Cargo.toml")

for file in libdevrx.so libdevrx.a; do
    if [ ! -f "$build/$file" ]; then
        echo "$0: $build has no $file: build it first, with cargo build --package devrx-capi" >&2
        exit 1
    fi
done
mkdir -p "$to/lib/pkgconfig" "$to/include"
cp "$build/libdevrx.a" "$to/lib/libdevrx.a"
cp "$build/libdevrx.so" "$to/lib/libdevrx.so.$abi"
ln -sf "libdevrx.so.$abi" "$to/lib/libdevrx.so"
cp "$here/include/devrx.h" "$here/include/devrx.cuh" "$here/include/devrx_placement.cuh" "$to/include/"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" "$here/devrx.pc.in" >"$to/lib/pkgconfig/devrx.pc"
