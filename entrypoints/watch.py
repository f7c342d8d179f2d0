"""`mlflow run . -e watch`: entry point for `eyevsai watch`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("watch")
