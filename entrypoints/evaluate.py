"""`mlflow run . -e evaluate`: entry point for `eyevsai evaluate`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("evaluate")
