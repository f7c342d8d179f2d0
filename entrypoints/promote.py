"""`mlflow run . -e promote`: entry point for `eyevsai promote`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["promote", *drop_empty("promote", sys.argv[1:])])
