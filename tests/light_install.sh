#!/bin/sh
# The bare package must work without onnxruntime, OpenCV, TensorFlow or PyTorch, and name what is missing.
set -eu
python=${1:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt .
cd "$folder"
export COLUMNS=200  # messages on one line
venv/bin/python - <<'PYTHON'
import importlib.util
import sys

import graticule
from graticule import Client
from graticule.client import Client as Same

assert Client is Same
heavy = ["onnx", "onnxruntime", "cv2", "tensorflow", "torch", "watchfiles", "pyarrow", "flower", "rsciio", "h5py", "av", "trackpy", "pandas"]
installed = [name for name in heavy if importlib.util.find_spec(name)]
assert not installed, f"a bare install must not bring {installed}"
print("graticule", graticule.__version__, "imports alone;", len(sys.modules), "modules")
PYTHON
check() { # command, words that its message must hold
    if output=$(venv/bin/graticule $1 2>&1); then echo "graticule $1 should have failed"; exit 1; fi
    case "$output" in *"$2"*) ;; *) printf 'graticule %s says:\n%s\n' "$1" "$output"; exit 1 ;; esac
}
check worker 'pip install "graticule[worker]"'
check "watch . --model x" 'pip install "graticule[watcher]"'
check up 'pip install "graticule[local]"'
check "models push ." 'pip install "graticule[export]"'
check "export inspect ." 'pip install "graticule[export]"'
export GRATICULE_S3_URL=http://127.0.0.1:1
check "models list" "http://127.0.0.1:1 does not answer"
echo "1 passed, 0 failed"
