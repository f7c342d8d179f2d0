"""`mlflow run . -e tune`: entry point for `eyevsai tune`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("tune")
