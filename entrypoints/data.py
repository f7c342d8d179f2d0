"""`mlflow run . -e data`: entry point for `eyevsai data download`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["data", "download", *drop_empty("data", sys.argv[1:])])
