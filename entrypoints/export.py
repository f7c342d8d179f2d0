"""`mlflow run . -e export`: entry point for `eyevsai export`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("export")
