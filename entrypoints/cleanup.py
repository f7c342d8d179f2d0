"""`mlflow run . -e cleanup`: entry point for `eyevsai cleanup`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["cleanup", *drop_empty("cleanup", sys.argv[1:])])
