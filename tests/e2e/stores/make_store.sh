#!/usr/bin/env bash
# Makes the MLflow store that the code of commit 4c82b9d writes, as a fixture for `eyevsai doctor --upgrade`.
#
#   make_store.sh CHECKOUT [PROJECT] [ARCHIVE]
#
# CHECKOUT  a checkout of that commit: git worktree add /tmp/old 4c82b9d
# PROJECT   folder that is made anew and in which the store lies (/tmp/oldstore); its path is in the store
# ARCHIVE   what is written (store_4c82b9d.tar.xz beside this script)
# PYTHON    environment variable: the interpreter that has the dependencies
#
# Nothing is downloaded. It takes some five minutes on two cores. Extra packages: torch-pruning.
set -euo pipefail

OLD=$(realpath "${1:?the checkout of 4c82b9d}")
PROJECT=$(realpath -m "${2:-/tmp/oldstore}")
HERE=$(dirname "$(realpath "$0")")
ARCHIVE=$(realpath -m "${3:-$HERE/store_4c82b9d.tar.xz}")
PYTHON=${PYTHON:-python}
SCRATCH=$(mktemp -d /tmp/make-store-XXXXXX)  # logs, weights, images: not packed
trap 'rm -rf "$SCRATCH"' EXIT

[ "$(git -C "$OLD" rev-parse --short=7 HEAD)" = 4c82b9d ] || { echo "$OLD is not at 4c82b9d" >&2; exit 1; }
rm -rf "$PROJECT"
mkdir -p "$PROJECT"
cd "$PROJECT"

# ---------------------------------------------------------------- surroundings
for name in $(env | sed -n 's/^\(MLFLOW_[A-Z_]*\|EYEVSAI_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
export PYTHONPATH="$OLD" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 COLUMNS=200 MLFLOW_DISABLE_TELEMETRY=true
export PATH="$(dirname "$PYTHON"):$PATH"
export EYEVSAI_STATE="$PROJECT/state" EYEVSAI_CACHE="${EYEVSAI_CACHE_OF_STORE:-/tmp/oldcache}"
export MLFLOW_TRACKING_URI="sqlite:///$PROJECT/mlflow.db"
# Pictures keep their names and their form, and are a few pixels wide.
mkdir "$SCRATCH/matplotlib" "$SCRATCH/coarse"
printf 'figure.dpi: 6\nsavefig.dpi: 6\n' > "$SCRATCH/matplotlib/matplotlibrc"
export MATPLOTLIBRC="$SCRATCH/matplotlib/matplotlibrc"
# Numbers in safetensors files are rounded as they are written, so that an archive of them is small: names, shapes,
# types and checksums are what that commit writes.
cat > "$SCRATCH/coarse/sitecustomize.py" <<'PY'
import importlib.util
import sys

BITS = {"torch.float32": ("int32", 23), "torch.float64": ("int64", 52)}  # of a mantissa
KEPT = {"torch.float32": 2, "torch.float64": 8}


def coarse(tensor):
    import torch

    kind = str(tensor.dtype)
    if kind not in BITS:
        return tensor
    name, bits = BITS[kind]
    lost, whole = bits - KEPT[kind], tensor.detach().contiguous().clone()
    numbers = whole.view(getattr(torch, name))
    rounded = ((numbers + (1 << (lost - 1))) >> lost << lost).view(whole.dtype)
    return torch.where(torch.isfinite(rounded), rounded, whole)


class Coarse:
    """Wraps `safetensors.torch` when something imports it."""

    def find_spec(self, name, path=None, target=None):
        if name != "safetensors.torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for each in ("save", "save_file"):
                write = getattr(module, each)
                setattr(module, each, lambda tensors, *rest, _write=write, **named: _write(
                    {key: coarse(tensor) for key, tensor in tensors.items()}, *rest, **named))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Coarse())
PY
export PYTHONPATH="$SCRATCH/coarse:$OLD"
case "$("$PYTHON" -c 'import eyevsai; print(eyevsai.__file__)')" in
    "$OLD"/*) ;;
    *) echo "another eyevsai is imported" >&2; exit 1 ;;
esac

eyevsai() { echo "--- eyevsai $*"; "$PYTHON" -m eyevsai "$@"; }
run_id_of() {  # of the newest run with this name
    "$PYTHON" - "$1" <<'PY'
import sqlite3, sys
with sqlite3.connect("mlflow.db") as database:
    print(database.execute("select run_uuid from runs where name = ? order by start_time desc", [sys.argv[1]]).fetchone()[0])
PY
}
wait_for() {  # a line in a file, while a process lives
    while ! grep -q "$1" "$2" 2>/dev/null; do kill -0 "$3" 2>/dev/null || { cat "$2"; exit 1; }; sleep 0.1; done
}
interrupt() {  # NAME SECONDS_OR_LINE FLAGS...: a training that gets Ctrl-C once it said that line
    local name=$1 line=$2 log="$SCRATCH/$1.log" code=0; shift 2
    echo "--- (interrupted) eyevsai train --run-name $name $*"
    setsid "$PYTHON" -c 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)
from eyevsai.cli import main; main(sys.argv[1:])' train --run-name "$name" "$@" > "$log" 2>&1 &
    local pid=$!
    wait_for "$line" "$log" "$pid"
    kill -INT "$pid"
    wait "$pid" || code=$?
    tail -2 "$log"
    echo "(exit code $code)"
}

SIZE=(--image-size 32 --threads 1)
NET=(--model deep_v1 --width 4 --head-units 0 "${SIZE[@]}" --device cpu --precision float32)

# ---------------------------------------------------------------- two versions of one model, each with settings of its own
eyevsai train "${NET[@]}" --tuned never --epochs 2 --seed 0 --run-name "first version" \
    --accumulation 2 --clip-norm 0.5 --lr-floor 0.01 --erasing 0.25
eyevsai train "${NET[@]}" --tuned never --epochs 3 --seed 0 \
    --schedule step --step-epochs 2 --step-factor 0.5 --policy trivial \
    --mixup 0.2 --cutmix 1.0 --mix-share 0.75 --ema-decay 0.9 --optimizer sgd --momentum 0.8 --lr 0.05 --test-flips true
# ---------------------------------------------------------------- other families
eyevsai train --model deep_v2 --variation densenet --width 4 --growth-rate 2 "${SIZE[@]}" --device cpu --precision float32 \
    --tuned never --epochs 1 --accumulation 4 --clip-norm 2.0 --policy rand --erasing 0.5 --test-flips true \
    --dropout-warmup-epochs 1 --schedule plateau --plateau-patience 2 --step-factor 0.2 --class-weights true
eyevsai train --model shallow --variation rf_hog_lbp "${SIZE[@]}" --tuned never --n-estimators 3 --max-depth 4 \
    --hog-cells 4 --components 8 --class-weights true
# A base of which every weight is one number packs to nothing.
"$PYTHON" - "$SCRATCH/even.safetensors" <<'PY'
import sys
import torch
from safetensors.torch import save_file
from eyevsai.models.transfer.bases import BASES
state = BASES["mobilenet_v2"].build().state_dict()
save_file({name: torch.full_like(tensor, int(name.endswith("running_var"))) for name, tensor in state.items()}, sys.argv[1])
PY
mkdir weights && mv "$SCRATCH/even.safetensors" weights/even.safetensors
eyevsai train --model transfer --variation mobilenet_v2 "${SIZE[@]}" --device cpu --precision float32 --tuned never \
    --weights "$PROJECT/weights/even.safetensors" --dense-units none --ema-decay 0 --batch-size 128 \
    --freeze-base-epochs 1 --frozen-views 2 --fine-tune-epochs 1 --unfreeze-stages 1 --stage-lr-decay 0.4 --fine-tune-lr 0.001 \
    --mixup 0.3 --mix-share 0.25 --lr-floor 0.02 --clip-norm 0 --accumulation 2
# ---------------------------------------------------------------- a study, and a training by what it found
printf 'lr = {low = 1e-3, high = 1e-1, log = true}\nerasing = {low = 0.0, high = 0.3}\nmix_share = {low = 0.3, high = 0.9}\nlr_floor = {low = 0.001, high = 0.1, log = true}\n' > space.toml
eyevsai tune "${NET[@]}" --epochs 4 --batch-size 128 --n-trials 3 --pruner hyperband --space space.toml --test-flips true \
    --accumulation 2 --seed 0
eyevsai train "${NET[@]}" --tuned digits-deep_v1-standard --epochs 1 --seed 0 --run-name "by what a study found"
# ---------------------------------------------------------------- judged, compared, exported
NAME=digits-deep_v1-standard
eyevsai evaluate --model-uri "models:/$NAME/1" --corruption-images 10 --target-precision 0.5
eyevsai evaluate --model-uri "models:/$NAME/2" --corruption-images 0
for label in 0 1 2 3 4 5 6 7 8 9; do  # the same images as somebody's own folder
    mkdir -p "$PROJECT/own/$label"
    ls "$EYEVSAI_CACHE/digits/$label" | head -2 | while read -r file; do cp "$EYEVSAI_CACHE/digits/$label/$file" "$PROJECT/own/$label/"; done
done
eyevsai evaluate --model-uri "models:/$NAME/1" --data "$PROJECT/own" --corruption-images 0
eyevsai compare "models:/$NAME/1" "models:/$NAME/2"
eyevsai export --model-uri "models:/$NAME/1" --format onnx --parity-images 20
# ---------------------------------------------------------------- the registry
eyevsai promote "$NAME" --version 1 --reason "the first"
eyevsai promote "$NAME" --version 3 || echo "(refused: not evaluated)"
eyevsai promote "$NAME" --version 2 --force --reason "a demonstration"
eyevsai rollback "$NAME" --reason "2 was worse"
eyevsai promote "$NAME" --version 3 --to staging --force --reason "to be looked at"
eyevsai registry pin "$NAME" 2 --reason "for the record"
eyevsai registry best --dataset digits --promote --reason "best of digits"
# ---------------------------------------------------------------- a matrix, a pruned version, reports, an import
eyevsai train-all --datasets digits --models deep_v1/residual,shallow/svm_hog_lbp --tuned never --epochs 1 --width 4 --head-units 0 \
    --convolutions 1 --image-size 32 --device cpu --precision float32 --features hog --hog-cells 2 --components 2 --C 1 \
    --job-cpus 1 --erasing 0.4 --accumulation 2
eyevsai export --model-uri "models:/$NAME/1" --format onnx --parity-images 20 --prune 0.3 --prune-epochs 1
eyevsai export --model-uri "models:/$NAME/2" --format onnx --parity-images 20 || echo "(refused: --test-flips)"
eyevsai report --models deep_v1/standard
"$PYTHON" - "$OLD/tests/original.py" <<'PY'
from pathlib import Path
import importlib.util, sys
spec = importlib.util.spec_from_file_location("original", sys.argv[1])
original = importlib.util.module_from_spec(spec); spec.loader.exec_module(original)
original.write_registry(Path("training_registry.json"), original.make_record(1))
PY
eyevsai registry import training_registry.json
# ---------------------------------------------------------------- interrupted: one is gone on with by `mlflow run`, one stays
interrupt "gone on with" "^epoch 1 of" "${NET[@]}" --tuned never --epochs 8 --patience 0 --policy trivial --mixup 0.1 --seed 0 --batch-size 256 --erasing 0.1
echo "--- mlflow run -e train -P resume=..."
"$PYTHON" -m mlflow run "$OLD" -e train --env-manager=local -P model=deep_v1 -P resume="$(run_id_of 'gone on with')" 2>&1 | tail -4
interrupt "interrupted" "^epoch 1 of" "${NET[@]}" --tuned never --epochs 6 --patience 0 --seed 0 --batch-size 256 \
    --accumulation 2 --clip-norm 0.5 --lr-floor 0.01 --test-flips true --erasing 0.3 --policy trivial --mixup 0.2 --mix-share 0.6 \
    --schedule step --step-epochs 3 --step-factor 0.5
# ---------------------------------------------------------------- unsent: the store is away from the beginning of a run on
echo "--- (store away) eyevsai train --run-name unsent"
"$PYTHON" -m eyevsai train --run-name unsent "${NET[@]}" --tuned never --epochs 1 --seed 0 --batch-size 256 \
    --test-flips true --erasing 0.2 --optimizer sgd --lr 0.1 > "$SCRATCH/unsent.log" 2>&1 &
UNSENT=$!
wait_for "^digits: 10 classes" "$SCRATCH/unsent.log" "$UNSENT"
"$PYTHON" - "$UNSENT" <<'PY'
import os, sqlite3, sys, time
database = sqlite3.connect("mlflow.db", timeout=60, isolation_level=None)
database.execute("begin exclusive")
while True:  # until the training has given up
    try:
        if open(f"/proc/{sys.argv[1]}/stat").read().rpartition(")")[2].split()[0] == "Z":
            break
    except OSError:
        break
    time.sleep(0.2)
database.execute("rollback")
PY
CODE=0; wait "$UNSENT" || CODE=$?
tail -3 "$SCRATCH/unsent.log"; echo "(exit code $CODE)"

# ---------------------------------------------------------------- packed
"$HERE/pack_store.sh" "$PROJECT" "$ARCHIVE"
