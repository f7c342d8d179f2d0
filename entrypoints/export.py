"""`mlflow run . -e export`: entry point for `eyevsai export`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["export", *drop_empty("export", sys.argv[1:])])
