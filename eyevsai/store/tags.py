"""Names of machine-readable tags of runs, model versions and studies."""

from __future__ import annotations

PARENT = "mlflow.parentRunId"  # MLflow nests a run with this tag under another one
NOTE = "mlflow.note.content"  # description of a run or an experiment, in Markdown

SCHEMA_VERSION = 2
SCHEMA = "eyevsai.schema"  # of a run: the version of these names
JOB = "eyevsai.job"  # of a run: the command that created it
# of a run that `mlflow run` created for a call that another run records: it is deleted afterwards
STUB = "eyevsai.stub"
HOST, PROCESS = "eyevsai.host", "eyevsai.process"  # of a run: its host and process
TERMINATION_REASON = "eyevsai.termination_reason"  # of a run that did not finish
PAUSED_S = "eyevsai.paused_s"  # of a resumed run: seconds between interruptions and resumes
DATASET_DIGEST = "eyevsai.dataset_digest"  # of a run, version or study: of its images
# of an evaluation, an export or a pruned model: the run of the model that it was made from
SOURCE_RUN_ID = "eyevsai.source_run_id"
JOB_FINGERPRINT = "eyevsai.job_fingerprint"  # of a run of train-all: of settings, data and code
EVALUATION_DIGEST = "eyevsai.evaluation_digest"  # of an evaluation: of its images
EVALUATION_WEIGHTS = "eyevsai.evaluation_weights_sha256"  # of an evaluation: of the model's weights
WEIGHTS_SHA256 = "eyevsai.weights_sha256"  # of a version
FILES_SHA256 = "eyevsai.files_sha256"  # of a version: JSON with the checksum of each of its files
REFERENCE_SHA256 = "eyevsai.reference_sha256"  # of a version: of the card of its drift reference
SOURCE_VERSION = "eyevsai.source_version"  # of a version that references another one
PRUNED_FROM = "eyevsai.pruned_from"  # of a version and its run: the version that was pruned
CLASSES_SHA256 = "classes_sha256"  # of a version, a registered model or a study: of its class list
# of a study: number of its complete trials, and the minimum for `train` to use it
COMPLETE_TRIALS, MIN_COMPLETE = "eyevsai.complete_trials", 10
