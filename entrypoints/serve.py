"""`mlflow run . -e serve`: entry point for `eyevsai serve`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("serve")
