"""`mlflow run . -e promote`: entry point for `eyevsai promote`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("promote")
