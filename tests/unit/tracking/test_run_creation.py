"""Names and descriptions of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.core.marked_text import END, START
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import NOTE
from eyevsai.tracking.run_creation import NewRun, create_run, number_name
from eyevsai.tracking.write_operations import apply_operation


def test_next_number_follows_the_highest_one() -> None:
    names = ["a-1", "a-9", "a-10", "a-x", "a-3-4", "b-20", "A-30", "a", "a-", "a--50", "a-1 "]
    assert number_name("a", names) == "a-11"
    assert number_name("a.b", ["aXb-3"]) == "a.b-1"


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", ["pets-deep_v1", 'it\'s a "pet" % \\ é'])
def test_runs_of_an_experiment_are_numbered(name: str) -> None:
    client = MlflowClient()
    new = NewRun(name, {"dataset": "pets"}, is_numbered=True)
    runs = [client.get_run(create_run(client, new)) for _ in range(2)]
    client.delete_run(runs[1].info.run_id)  # its number is not used again
    runs.append(client.get_run(create_run(client, new)))
    runs.append(client.get_run(create_run(client, NewRun(name, {"dataset": "others"}, True))))
    assert [run.info.run_name for run in runs] == [f"{name}-{number}" for number in (1, 2, 3, 1)]
    experiments = {client.get_experiment(run.info.experiment_id).name for run in runs}
    assert experiments == {"pets", "others"}


def test_result_is_updated_in_the_description_of_the_run(workplace: Path) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    folder = RunDir(workplace / "state", run_id)
    apply_operation(client, folder, "result", {"result": "first"})
    client.set_tag(run_id, NOTE, f"Looks good.\n\n{START}first{END}")
    for _ in range(2):
        apply_operation(client, folder, "result", {"result": "second"})
    assert client.get_run(run_id).data.tags[NOTE] == f"Looks good.\n\n{START}second{END}"
