#!/usr/bin/env bash
# Builds sdist and wheel, installs the wheel alone in a fresh environment, and does there what a newcomer does first.
#
#     scripts/check_wheel.sh                       with python3
#     scripts/check_wheel.sh python3.10            with another Python
#     WHEEL_OUT=dist scripts/check_wheel.sh        keeps sdist and wheel
#     TORCH='torch<2.14' scripts/check_wheel.sh    with this PyTorch
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${1:-python3}
torch=${TORCH:-torch}
most_mb=${MOST_MB:-12}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
out=${WHEEL_OUT:-$work/dist}
env=$work/env

"$python" -m venv "$work/builder"
"$work/builder/bin/python" -m pip install --quiet build
"$work/builder/bin/python" -m build --outdir "$out" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(ls -t "$out"/fedloom-*.whl | head -n 1)
sdist=$(ls -t "$out"/fedloom-*.tar.gz | head -n 1)

"$python" - "$root" "$wheel" "$sdist" "$most_mb" <<'PY'
import sys
import tarfile
import zipfile
from pathlib import Path

root, wheel, sdist, most = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
source = [p for p in (root / "src/fedloom").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
wanted = {p.relative_to(root / "src").as_posix() for p in source}
wanted |= {f"fedloom/{p.relative_to(root).as_posix()}" for p in (root / "experiments").rglob("*.yaml")}
held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fedloom/")}
if wanted != held:
    sys.exit(f"the wheel lacks {sorted(wanted - held)[:5]}, and should not hold {sorted(held - wanted)[:5]}")
for name in ("py.typed", "cli/demo.yaml", "experiments/uniflow/quickstart.yaml"):
    assert f"fedloom/{name}" in held, name
with tarfile.open(sdist) as archive:
    names = {name.partition("/")[2] for name in archive.getnames()}
if lacking := [n for n in ("pyproject.toml", "LICENSE", "README.md", "src/fedloom/py.typed") if n not in names]:
    sys.exit(f"the sdist lacks {lacking[0]}")
for file in (wheel, sdist):
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
if wheel.stat().st_size > most * 1e6:
    sys.exit(f"the wheel is larger than {most:g} MB")
PY

"$python" -m venv "$env"
"$env/bin/python" -m pip install --quiet "$wheel" "$torch"
"$env/bin/python" -m pip check
cd "$work" # away from the checkout: what is found is the wheel's
"$env/bin/python" -c 'import fedloom; print("fedloom", fedloom.__version__, "from", fedloom.__file__)'
"$env/bin/fedloom" doctor >"$work/doctor.txt" || { cat "$work/doctor.txt" >&2; exit 1; }
listed=$("$env/bin/fedloom" experiments | wc -l)
"$env/bin/fedloom" experiments copy uniflow/quickstart
echo "$listed experiments; quickstart.yaml has $(wc -l <quickstart.yaml) lines"
"$env/bin/fedloom" demo data.train=16 data.test=4 rounds=1 training.batch_size=8 evaluation.samples=1 --out demo --jobs 1
test -s demo/report.html
"$env/bin/fedloom" ask demo/feda2-lora/seed-0 --question "what colour is the cube?" --image "$(find demo -name '*.png' | head -n 1)"
echo "the wheel works with $("$env/bin/python" --version)"
