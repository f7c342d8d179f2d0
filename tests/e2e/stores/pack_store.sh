#!/usr/bin/env bash
# Packs a copy of the store that make_store.sh made: pack_store.sh PROJECT ARCHIVE. The project stays as it is.
#
# Left out: plotly.js inside study.html, the history of system metrics but for the last point of each, pictures
# of most runs (see KEPT: names of runs that keep all of theirs), test_report.html of all but the first, locks.
set -euo pipefail
PROJECT=$(realpath "$1")
ARCHIVE=$(realpath -m "$2")
PYTHON=${PYTHON:-python}
SCRATCH=$(mktemp -d /tmp/pack-store-XXXXXX)
trap 'rm -rf "$SCRATCH"' EXIT
mkdir "$SCRATCH/store"
cp -a "$PROJECT"/{mlflow.db,mlruns,state,studies} "$SCRATCH/store"
cd "$SCRATCH/store"
"$PYTHON" - <<'PY'
import re
import sqlite3
from pathlib import Path

KEPT = ("first version", "tune digits-deep_v1-standard", "train 2 models")
ONCE = ("importance.png", "test_importance.png")  # pictures that only shallow models have
for page in Path("mlruns").rglob("study.html"):  # plotly.js itself, 5 MB, is left out
    text = page.read_text()
    page.write_text(re.sub(r"<script[^>]*>(?:(?!</script>).){100000,}</script>", "<script>/* plotly.js */</script>", text, flags=re.S))
database = sqlite3.connect("mlflow.db", isolation_level=None)
names = dict(database.execute("select run_uuid, name from runs"))
for path in sorted(Path("mlruns").glob("*/*/artifacts/**/*")):
    run = path.relative_to("mlruns").parts[1]
    whole = names.get(run) in KEPT
    if run in names and (
        (path.name == "test_report.html" and names[run] != KEPT[0])
        or (path.suffix == ".png" and path.name not in ONCE and not whole)
    ):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
database.execute(
    "delete from metrics where key like 'system/%' and not exists (select 1 from latest_metrics as last where "
    "last.run_uuid = metrics.run_uuid and last.key = metrics.key and last.step = metrics.step and "
    "last.timestamp = metrics.timestamp)"
)
print("integrity:", database.execute("pragma integrity_check").fetchone()[0])
database.execute("vacuum")
database.close()
PY
find . \( -name '*.lock' -o -name '*.flock' \) -delete
find state -name lock -delete
rm -f mlflow.db-*
mkdir -p "$(dirname "$ARCHIVE")"
# by name of the file, so that equal files lie together
find mlflow.db mlruns state studies -type f -printf '%f\t%p\n' | sort | cut -f 2 > "$SCRATCH/list"
find mlflow.db mlruns state studies -type d -empty >> "$SCRATCH/list"
tar --owner=0 --group=0 --numeric-owner --no-recursion -cf - -T "$SCRATCH/list" | xz --lzma2=preset=9e,dict=64MiB,lc=4,pb=0 > "$ARCHIVE"
ls -l "$ARCHIVE"
