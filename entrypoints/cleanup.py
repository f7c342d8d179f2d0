"""`mlflow run . -e cleanup`: entry point for `eyevsai cleanup`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("cleanup")
