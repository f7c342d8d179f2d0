"""`mlflow run . -e train_all`: entry point for `eyevsai train-all`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("train_all")
