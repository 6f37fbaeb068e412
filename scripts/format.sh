#!/usr/bin/env bash
# Formats the C++ sources in place, or only checks them.
#   scripts/format.sh [--check]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
command -v clang-format >/dev/null || die "clang-format is not installed; scripts/deps.sh --test installs it"
mode=(-i)
[[ ${1:-} == --check ]] && mode=(--dry-run --Werror)
git ls-files -z '*.cpp' '*.hpp' '*.cu' | xargs -0 -r clang-format "${mode[@]}"
