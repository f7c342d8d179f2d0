"""`mlflow run . -e tune`: the same as `eyevsai tune`."""

import sys

from eyevsai.cli import main
from eyevsai.flags import drop_empty

if __name__ == "__main__":
    main(["tune", *drop_empty("tune", sys.argv[1:])])
