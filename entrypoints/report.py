"""`mlflow run . -e report`: the same as `eyevsai report`."""

import sys

from eyevsai.cli import main
from eyevsai.flags import drop_empty

if __name__ == "__main__":
    main(["report", *drop_empty("report", sys.argv[1:])])
