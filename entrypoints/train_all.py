"""`mlflow run . -e train_all`: entry point for `eyevsai train-all`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["train-all", *drop_empty("train_all", sys.argv[1:])])
