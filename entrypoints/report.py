"""`mlflow run . -e report`: entry point for `eyevsai report`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("report")
