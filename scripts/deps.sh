#!/usr/bin/env bash
# Installs the Debian packages that are missing. Does nothing, and needs no rights, when all are there.
#   scripts/deps.sh [--program | --test]
#     --program  only what the program and obtaining its model need
#     --test     also what only the tests, fuzz targets and plots need
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The one list. What each is for is in docs/architecture.md.
packages=(
  g++ cmake ninja-build pkg-config
  libcaf-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libtomlplusplus-dev libcli11-dev
  libpcre2-dev libedit-dev libhwloc-dev liburing-dev libxxhash-dev
  python3 python3-pip ca-certificates
)
build_packages=(catch2 libmimalloc-dev libsimde-dev) # tests and benchmarks
test_packages=(clang libclang-rt-dev llvm clang-format clang-tidy shellcheck python3-venv python3-matplotlib)

case "${1:-}" in
  --program) ;;
  "") packages+=("${build_packages[@]}") ;;
  --test) packages+=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) die "deps.sh knows --program and --test, not '$1'" ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  die "this is no Debian system; install the equivalents of these packages and run scripts/build.sh --no-deps:" \
    "${packages[*]}"
fi

missing=()
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
  grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done
((${#missing[@]} == 0)) && exit 0

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null ||
    die "these packages are missing and need root to install (there is no sudo here):" \
      "apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo)
fi

say "installing ${#missing[@]} Debian packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
# Lists may be old or absent; a mirror that is away is no obstacle when the lists at hand still serve.
"${apt[@]}" update >"$log" 2>&1 || say "apt-get update failed, going on with the package lists that are there"
"${apt[@]}" install --no-install-recommends "${missing[@]}" >>"$log" 2>&1 &
how_far() {
  local count
  count=$(sed -nE 's/^([0-9]+) upgraded, ([0-9]+) newly installed.*/\1 + \2/p' "$log")
  count=$((${count:-0}))
  ((count > 0)) || count=some
  printf 'installing packages: %s of %s, %s s' "$(grep -c '^Setting up' "$log")" "$count" "$SECONDS"
}
if ! wait_showing $! how_far; then
  tail -n 15 "$log" >&2
  die "apt-get could not install the packages (its last lines are above); mend that, or install them by hand:" \
    "${missing[*]}"
fi
