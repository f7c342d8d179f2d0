"""`mlflow run . -e tune`: entry point for `eyevsai tune`."""

import sys

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty

if __name__ == "__main__":
    main(["tune", *drop_empty("tune", sys.argv[1:])])
