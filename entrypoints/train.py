"""`mlflow run . -e train`: entry point for `eyevsai train`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["train", *drop_empty("train", sys.argv[1:])])
