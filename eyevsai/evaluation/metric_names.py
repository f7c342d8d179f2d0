"""Names of the metrics by which models are compared."""

EPOCH_ACCURACY = "valid/accuracy"  # logged in each epoch
VALID_BEST = "valid/best_"  # prefix of the metrics of the best epoch
BEST_EPOCH = f"{VALID_BEST}epoch"
TEST_ACCURACY, VALID_ACCURACY = "test/accuracy", f"{VALID_BEST}accuracy"  # logged once per run
SCORES = (TEST_ACCURACY, VALID_ACCURACY)  # a run's score is the first of these that it has
