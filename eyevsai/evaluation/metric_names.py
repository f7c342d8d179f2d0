"""What models are held against each other by."""

TEST_ACCURACY, VALID_ACCURACY = "test/accuracy", "valid/best_accuracy"  # metrics of a run
SCORES = (TEST_ACCURACY, VALID_ACCURACY)  # the first that there is counts
