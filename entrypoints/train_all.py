"""`mlflow run . -e train_all`: the same as `eyevsai train-all`."""

import sys

from eyevsai.cli import main
from eyevsai.flags import drop_empty

if __name__ == "__main__":
    main(["train-all", *drop_empty("train_all", sys.argv[1:])])
