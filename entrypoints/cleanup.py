"""`mlflow run . -e cleanup`: the same as `eyevsai cleanup`."""

import sys

from eyevsai.cli import main
from eyevsai.flags import drop_empty

if __name__ == "__main__":
    main(["cleanup", *drop_empty("cleanup", sys.argv[1:])])
