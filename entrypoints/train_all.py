"""`mlflow run . -e train_all`: the same as `eyevsai train-all`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["train-all", *sys.argv[1:]])
