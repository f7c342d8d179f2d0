"""`mlflow run . -e tune`: the same as `eyevsai tune`."""

import sys

from eyevsai.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
