#!/usr/bin/env bash
# Runs tests against the wheel, installed into an environment of its own: make test-wheel and make test-oldest.
#
#   tools/test_installed.sh FOLDER "REQUIREMENT ..." "EXTRA,..." TEST ...
#
# The tests are those of the source distribution, from which src/ is taken away, so that nothing but the wheel can be
# imported. FOLDER keeps the environment for the next time. BUILDER is a Python that has build and hatchling.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "$1"
folder=$(cd "$1" && pwd) extras=$3
read -ra requirements <<<"$2"
shift 3
python=$folder/venv/bin/python

rm -rf "$folder/dist" "$folder/tree"
"${BUILDER:-python3}" -m build --no-isolation --outdir "$folder/dist" . &>"$folder/build.log" || { cat "$folder/build.log"; exit 1; }
mkdir "$folder/tree"
tar -xzf "$folder"/dist/*.tar.gz --strip-components 1 -C "$folder/tree"
rm -r "$folder/tree/src"

test -x "$python" || python3 -m venv "$folder/venv"
pip=("$python" -m pip install --quiet --disable-pip-version-check)
wheel=$(echo "$folder"/dist/*.whl)
"${pip[@]}" "${requirements[@]}" "$wheel${extras:+[$extras]}"
"${pip[@]}" --force-reinstall --no-deps "$wheel"  # pip takes a wheel of the same version for the one it has

cd "$folder/tree"
"$python" -m pip list --disable-pip-version-check 2>/dev/null | grep -E '^(tvlars|torch|torchvision|numpy|triton) '
"$python" -c 'import tvlars; assert "site-packages" in tvlars.__file__, tvlars.__file__'
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" -m pytest -q -p no:cacheprovider "$@"
