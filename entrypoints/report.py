"""`mlflow run . -e report`: entry point for `eyevsai report`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["report", *drop_empty("report", sys.argv[1:])])
