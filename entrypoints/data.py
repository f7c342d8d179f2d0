"""`mlflow run . -e data`: entry point for `eyevsai data download`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("data")
