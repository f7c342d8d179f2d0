"""`mlflow run . -e evaluate`: entry point for `eyevsai evaluate`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["evaluate", *drop_empty("evaluate", sys.argv[1:])])
