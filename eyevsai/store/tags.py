"""Names of the tags of runs and versions that are for programs, shared by several packages."""

from __future__ import annotations

PARENT = "mlflow.parentRunId"  # MLflow shows a run with this tag under another one

SCHEMA_VERSION = 2
SCHEMA = "eyevsai.schema"  # of a run: the version of these names
JOB = "eyevsai.job"  # of a run: the command that created it
HOST, PROCESS = "eyevsai.host", "eyevsai.process"  # of a run: where it is worked on
TERMINATION_REASON = "eyevsai.termination_reason"  # of a run that did not finish
PAUSED_S = "eyevsai.paused_s"  # of a resumed run: seconds in which no process worked on it
DATASET_DIGEST = "eyevsai.dataset_digest"  # of a run, a version or a study: its images
SOURCE_RUN_ID = "eyevsai.source_run_id"  # of an evaluation or an export: the run of its model
JOB_FINGERPRINT = "eyevsai.job_fingerprint"  # of a run of train-all: its settings, data and code
EVALUATION_DIGEST = "eyevsai.evaluation_digest"  # of an evaluation: its images
EVALUATION_WEIGHTS = "eyevsai.evaluation_weights_sha256"  # of an evaluation: of the model's weights
WEIGHTS_SHA256 = "eyevsai.weights_sha256"  # of a version
FILES_SHA256 = "eyevsai.files_sha256"  # of a version: JSON, each file that it was registered with
SOURCE_VERSION = "eyevsai.source_version"  # of a version that is another one under a second name
PRUNED_FROM = "eyevsai.pruned_from"  # of a version and its run: the version that was pruned
CLASSES_SHA256 = "classes_sha256"  # of a version, a registered model or a study: its class list
# of a study: how many of its trials are complete, and how many make one that `train` uses
COMPLETE_TRIALS, MIN_COMPLETE = "eyevsai.complete_trials", 10
