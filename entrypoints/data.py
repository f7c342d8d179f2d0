"""`mlflow run . -e data`: the same as `eyevsai data get`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["data", "get", *sys.argv[1:]])
