"""`mlflow run . -e rollout`: entry point for `eyevsai rollout start`."""

from eyevsai.cli.entrypoint import run_entry_point

if __name__ == "__main__":
    run_entry_point("rollout")
