"""`mlflow run . -e export`: the same as `eyevsai export`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
