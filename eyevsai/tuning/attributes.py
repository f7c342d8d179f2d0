"""Names of the attributes that a study stores in Optuna."""

# of the study
FINGERPRINT, PARENT = ("basis", "parent")
# of a trial: description of its process, id of its run, all of its settings, its configured epochs,
# its time budget
PROCESS, RUN_ID, SETTINGS, EPOCHS = ("process", "run_id", "settings", "epochs")
MINUTES = "minutes"
# reasons why a trial failed, does not count as one of the study, or has settings that conflict
ERROR, EXCLUDED, SKIPPED = ("error", "left_out", "skipped")
DEFAULTS = "defaults"  # of the trial with the defaults, which is the baseline of the others
FIXED = "fixed_params"  # Optuna's attribute for the parameters of a queued trial
