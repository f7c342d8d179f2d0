"""Overhead of tuning a shallow model: eight trials of rf_hog_lbp on the 60-class union.

Compares the time from the start of the first trial to the end of the last one with that of one
feature extraction and the same eight fits. Limit: 1.1 times as long.
`EYEVSAI_VARIATION=svm_hog_lbp` measures the SVMs, of which some fits take a quarter of an hour.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace

from benchmarks.photographs import PHOTOS, are_missing

TRIALS = 8


def main() -> None:
    if are_missing():
        return
    photos = str(PHOTOS.resolve())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        variation = os.environ.get("EYEVSAI_VARIATION", "rf_hog_lbp")
        values = {
            "model": "shallow",
            "variation": variation,
            "dataset": "combined_all",
            "data_dir": photos,
            "cache_dir": f"{folder}/cache",
            "state_dir": f"{folder}/state",
            "n_trials": TRIALS,
        }
        from eyevsai.models.factory import build
        from eyevsai.workflows.job_context import job_context
        from eyevsai.workflows.tune.settings import compose_tune
        from eyevsai.workflows.tune.study_config import open_study
        from eyevsai.workflows.tune.tune import tune

        config = compose_tune(values)
        tune(config)
        with job_context(config.state_dir) as job:
            study_data = open_study(config, job)
        trials, dataset = study_data.study.counted_trials(), study_data.dataset
        first_start, last_end = trials[0].datetime_start, trials[-1].datetime_complete
        assert first_start is not None
        assert last_end is not None
        ours = (last_end - first_start).total_seconds()

        model, theirs = config.trials.model, 0.0
        for number, trial in enumerate(trials):
            settings = replace(model.settings, **trial.user_attrs["settings"])
            learner = build(model.family, model.variation, settings, dataset.classes, 0)
            data = dataset.open(learner.preprocessing)
            if number == 0:
                uncached = [replace(split, cache=None) for split in (data.train, data.valid)]
                start = time.perf_counter()
                for split in uncached:
                    learner.extract(split)  # type: ignore[attr-defined]
                theirs += time.perf_counter() - start
            start = time.perf_counter()
            learner.fit(data.train, data.valid, lambda epoch, row: None)
            theirs += time.perf_counter() - start
    print(
        f"{TRIALS} trials {ours:.1f} s   one extraction and {TRIALS} fits {theirs:.1f} s   "
        f"ratio {ours / theirs:.2f} (limit 1.1)"
    )
