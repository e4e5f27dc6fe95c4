#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# build.sh SOURCE.S OUT: assembles and links one miniature kernel. Needs gas and ld of binutils.
set -eu
here=$(dirname "$0")
object=$(mktemp)
trap 'rm -f "$object"' EXIT
as --64 -I "$here" -o "$object" "$1"
ld -m elf_x86_64 --build-id=sha1 -z max-page-size=4096 -T "$here/kernel.ld" -o "$2" "$object"
