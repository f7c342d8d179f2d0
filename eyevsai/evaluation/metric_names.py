"""Names of the metrics that models are compared by."""

EPOCH_ACCURACY = "valid/accuracy"  # of each epoch
VALID_BEST = "valid/best_"  # prefix of the metrics of the best epoch
BEST_EPOCH = f"{VALID_BEST}epoch"
TEST_ACCURACY, VALID_ACCURACY = "test/accuracy", f"{VALID_BEST}accuracy"  # metrics of a run
SCORES = (TEST_ACCURACY, VALID_ACCURACY)  # the first one that a run has is its score
