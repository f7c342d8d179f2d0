"""`mlflow run . -e promote`: the same as `eyevsai promote`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["promote", *sys.argv[1:]])
