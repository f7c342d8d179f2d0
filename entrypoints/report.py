"""`mlflow run . -e report`: the same as `eyevsai report`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
