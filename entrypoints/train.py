"""`mlflow run . -e train`: the same as `eyevsai train`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
