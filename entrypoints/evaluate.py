"""`mlflow run . -e evaluate`: the same as `eyevsai evaluate`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
