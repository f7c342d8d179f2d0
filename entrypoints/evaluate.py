"""`mlflow run . -e evaluate`: the same as `eyevsai evaluate`."""

import sys

from eyevsai.cli import main
from eyevsai.flags import drop_empty

if __name__ == "__main__":
    main(["evaluate", *drop_empty("evaluate", sys.argv[1:])])
