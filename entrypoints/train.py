"""`mlflow run . -e train`: entry point for `eyevsai train`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("train")
