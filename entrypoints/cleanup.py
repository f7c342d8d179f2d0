"""`mlflow run . -e cleanup`: the same as `eyevsai cleanup`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["cleanup", *sys.argv[1:]])
