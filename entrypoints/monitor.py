"""`mlflow run . -e monitor`: entry point for `eyevsai monitor`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("monitor")
