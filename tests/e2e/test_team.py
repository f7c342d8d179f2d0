"""Team mode: the server of deploy/, whom it lets in, and what members do with it.

`make test` uses a server with the command, settings and login of deploy/compose.yaml over SQLite
and a folder; `make test-all` uses the server of compose.yaml itself, with PostgreSQL and S3.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tests.conftest import ROOT
from tests.robustness.test_store import REGISTER, Record
from tests.team import ADMIN, HOST, SECRETS, ComposeTeam, Team, create_team_database

NEEDED = {"sqlite": ("flask_wtf",), "postgresql": ("moto", "boto3", "flask_wtf", "psycopg")}
SQLITE, POSTGRESQL = "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)
pytestmark = [pytest.mark.xdist_group("team"), pytest.mark.timeout(900)]
CREATE, ARTIFACTS = "/api/2.0/mlflow/experiments/create", "/api/2.0/mlflow-artifacts/artifacts"
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
TRAIN = ("train", "--epochs", "1", "--width", "8", "--threads", "1")


@pytest.fixture(scope="module", params=[SQLITE, POSTGRESQL])
def team(
    request: pytest.FixtureRequest, template_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """Start a server over a database of one of two kinds."""
    if missing := [name for name in NEEDED[request.param] if find_spec(name) is None]:
        pytest.skip(f"no {', '.join(missing)}: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("team")
    if request.param == "sqlite":
        shutil.copy(template_store, folder / "mlflow.db")
        with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
            database.execute("update experiments set artifact_location = 'mlflow-artifacts:/0'")
        team = Team(folder, f"sqlite:///{folder / 'mlflow.db'}")
    else:
        team = ComposeTeam(folder, create_team_database(request.getfixturevalue("postgres")))
    try:
        team.start()
        yield team
    finally:
        team.stop()


@pytest.fixture(scope="module")
def ada(team: Team) -> dict[str, str]:
    return team.add_member("ada")


@pytest.fixture(scope="module")
def bob(team: Team) -> dict[str, str]:
    return team.add_member("bob")


@pytest.fixture(scope="module")
def members(ada: dict[str, str], bob: dict[str, str]) -> list[dict[str, str]]:
    return [ada, bob]


@pytest.mark.requirement(25)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CREATE),
        ("POST", "/api/2.0/mlflow/registered-models/create"),
        ("PUT", f"{ARTIFACTS}/0/file"),
        ("GET", f"{ARTIFACTS}/0/file"),
        ("POST", "/api/2.0/mlflow/users/create"),
        ("POST", "/graphql"),
        ("GET", "/"),
        ("GET", "/signup"),
        ("GET", "/openapi.json"),
    ],
)
@pytest.mark.parametrize(
    "login", [None, ("admin", "password1234"), ("admin", "wrong"), ("nobody", "password1234")]
)
def test_nobody_comes_in_without_a_login(
    team: Team, method: str, path: str, login: tuple[str, str]
) -> None:
    assert team.ask(method, path, login, '{"name": "open"}')[0] == 401


@pytest.mark.requirement(25)
@pytest.mark.parametrize(
    "path", ["/", CREATE, f"{ARTIFACTS}/0/file", "/api/2.0/mlflow/users/current"]
)
@pytest.mark.parametrize(
    "host", ["evil.example", f"{HOST}.evil.example", "127.0.0.1:1", "192.168.0.1"]
)
def test_another_host_is_refused(team: Team, path: str, host: str) -> None:
    assert team.ask("GET", path, ADMIN, Host=host)[0] == 403


@pytest.mark.requirement(25)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"https://{HOST}.evil.example", f"http://{HOST}", "null"]
)
def test_another_page_cannot_write(team: Team, origin: str) -> None:
    body = f'{{"name": "{origin}"}}'
    assert team.ask("POST", CREATE, ADMIN, body, Origin=origin)[0] == 403
    assert team.ask("PUT", f"{ARTIFACTS}/0/file", ADMIN, body, Origin=origin)[0] == 403


@pytest.mark.requirement(25)
def test_its_own_page_can_write(team: Team) -> None:
    assert (
        team.ask(
            "POST", CREATE, ADMIN, '{"name": "own page"}', Host=HOST, Origin=f"https://{HOST}"
        )[0]
        == 200
    )


TRAVERSALS = [
    "../file",
    "..%2ffile",
    "%2e%2e%2ffile",
    "0/../../file",
    "0/..%2f..%2ffile",
    "%252e%252e%252ffile",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
]


@pytest.mark.requirement(25)
@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_path_does_not_leave_its_folder(
    team: Team, ada: dict[str, str], tmp_path: Path, method: str, path: str
) -> None:
    assert team.ask(method, f"{ARTIFACTS}/{path}", ADMIN, "out")[0] == 400
    # whose they may not even ask
    assert team.ask(method, f"{ARTIFACTS}/{path}", login_of(ada), "out")[0] in (400, 403)
    assert team.ask(method, f"{ARTIFACTS}/{path}", None, "out")[0] == 401


@pytest.mark.requirement(25)
def test_artifacts_of_a_run_do_not_leave_its_folder(team: Team, ada: dict[str, str]) -> None:
    made = team.ask("POST", "/api/2.0/mlflow/runs/create", login_of(ada), '{"experiment_id": "0"}')
    run_id = json.loads(made[1])["run"]["info"]["run_id"]
    for path in ("../..", "%2e%2e/x", "/etc"):
        for login in (ADMIN, login_of(ada)):
            assert (
                team.ask(
                    "GET", f"/api/2.0/mlflow/artifacts/list?run_id={run_id}&path={path}", login
                )[0]
                == 400
            )
            assert team.ask("GET", f"/get-artifact?run_uuid={run_id}&path={path}", login)[0] == 400


def login_of(member: dict[str, str]) -> tuple[str, str]:
    return member["MLFLOW_TRACKING_USERNAME"], member["MLFLOW_TRACKING_PASSWORD"]


@pytest.mark.slow
@pytest.mark.parametrize("team", [POSTGRESQL], indirect=True)
def test_a_laptop_trains_and_another_predicts(
    team: Team, ada: dict[str, str], bob: dict[str, str], tmp_path: Path
) -> None:
    done = team.on_laptop(tmp_path / "ada", ada, *TRAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"see it at {team.uri}" in done.stdout
    (uri,) = re.findall(r"^models:/digits-deep_v1-standard/\d+$", done.stdout, re.MULTILINE)
    image = tmp_path / "image.png"
    write_digit(image)
    predicted = team.on_laptop(tmp_path / "bob", bob, "predict", uri, str(image))
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.startswith(str(image))
    # a version of a model that Ada made
    again = team.on_laptop(tmp_path / "bob", bob, *TRAIN, "--seed", "1")
    assert again.returncode == 0, again.stderr
    assert int(uri.rpartition("/")[2]) + 1 == int(re.findall(r"standard/(\d+)", again.stdout)[0])
    number, forced = uri.rpartition("/")[2], ("--force", "--reason", "not evaluated here")
    for given in (
        ("promote", "digits-deep_v1-standard", "--version", number, *forced),
        ("promote", "digits-deep_v1-standard", "--version", number, "--to", "archived"),
        ("rollback", "digits-deep_v1-standard"),
        ("registry", "unpin", "digits-deep_v1-standard", number),
    ):
        changed = team.on_laptop(tmp_path / "bob", bob, *given)  # by who has not made it
        assert changed.returncode == 0, changed.stderr
    status = team.on_laptop(
        tmp_path / "ada", ada, "registry", "status", "digits-deep_v1-standard", "--json"
    )
    (current,) = [
        each for each in json.loads(status.stdout)["versions"] if each["stage"] == "production"
    ]
    assert str(current["version"]) == number
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bob.items():
            patch.setenv(name, value)
        client = MlflowClient(tracking_uri=team.uri)
        with pytest.raises(MlflowException, match="ermission"):
            client.delete_model_version("digits-deep_v1-standard", number)
        with pytest.raises(MlflowException, match="ermission"):
            client.delete_registered_model("digits-deep_v1-standard")
    assert not list(tmp_path.glob("*/mlruns"))  # nothing of it stays here
    assert not list(tmp_path.glob("*/mlflow.db"))
    assert any(key.endswith("model.safetensors") for key in team.list_files())
    said = "".join(each.stdout + each.stderr for each in (done, predicted, again))
    assert not [login_of(member)[1] for member in (ada, bob) if login_of(member)[1] in said]


def write_digit(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (200, 200, 200)).save(path)


@pytest.mark.slow
@pytest.mark.requirement(6)
@pytest.mark.parametrize("team", [POSTGRESQL], indirect=True)
@pytest.mark.parametrize(
    "count", [5, 50]
)  # `make test` asks it of SQLite and PostgreSQL, in tests/robustness
def test_many_registrations_over_http_leave_no_gap(
    team: Team, members: list[dict[str, str]], tmp_path: Path, count: int, record_property: Record
) -> None:
    before = len(versions_of(team, "many-deep_v1-standard"))
    command = [sys.executable, "-c", REGISTER, str(count), team.uri]
    jobs = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | member,
            stderr=subprocess.PIPE,
            text=True,
        )
        for member in members * 4
    ]
    said = [job.communicate(timeout=800)[1] for job in jobs]
    after = versions_of(team, "many-deep_v1-standard")
    record_property("tried", 8 * count)
    record_property("survived", len(after) - before)
    assert [job.returncode for job in jobs] == [0] * 8, said
    assert sorted(int(version.version) for version in after) == list(
        range(1, before + 8 * count + 1)
    )
    assert len({version.run_id for version in after}) == len(after)


def versions_of(team: Team, name: str) -> list[ModelVersion]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
        return list(
            MlflowClient(tracking_uri=team.uri).search_model_versions(
                f"name = '{name}'", max_results=1000
            )
        )


def test_a_login_without_the_role_reads_and_is_told(
    team: Team, tmp_path: Path, stripes: Path
) -> None:
    login = ("vera", "looks-and-leaves")
    body = json.dumps({"username": login[0], "password": login[1]})
    assert team.ask("POST", "/api/2.0/mlflow/users/create", ADMIN, body)[0] == 200
    assert team.ask("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", login)[0] == 200
    vera = dict(zip(LOGIN, login, strict=True))
    done = team.on_laptop(
        tmp_path / "vera",
        {"MLFLOW_TRACKING_URI": team.uri} | vera,
        *TRAIN,
        "--data",
        str(stripes),
        "--batch-size",
        "8",
        "--experiment",
        "Default",  # MLflow lets every login create an experiment of its own
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "no permission to write" in done.stderr
    assert "`member`" in done.stderr


def test_members_can_neither_delete_models_nor_make_logins(
    team: Team, ada: dict[str, str], bob: dict[str, str]
) -> None:
    made = team.ask(
        "POST", "/api/2.0/mlflow/registered-models/create", login_of(ada), '{"name": "adas"}'
    )
    assert made[0] == 200
    delete = ("DELETE", "/api/2.0/mlflow/registered-models/delete")
    assert team.ask(*delete, login_of(bob), '{"name": "adas"}')[0] == 403
    body = '{"username": "eve", "password": "twelve-characters"}'
    assert team.ask("POST", "/api/2.0/mlflow/users/create", login_of(bob), body)[0] == 403
    # nor their own: a cleanup is the admin's
    assert team.ask(*delete, login_of(ada), '{"name": "adas"}')[0] == 403
    assert team.ask(*delete, ADMIN, '{"name": "adas"}')[0] == 200


def test_a_login_is_renewed(team: Team) -> None:
    old = login_of(team.add_member("carl"))
    twice = team.run_member("carl")
    assert (twice.returncode, "--renew" in twice.stderr) == (2, True)
    new = team.run_member("carl", "--renew").stdout.split("PASSWORD=")[1].strip()
    whoami = "/api/2.0/mlflow/users/current"
    assert team.ask("GET", whoami, ("carl", new))[0] == 200
    assert team.ask("GET", whoami, old)[0] == 401


def test_a_login_is_asked_for_and_never_shown(team: Team, tmp_path: Path) -> None:
    none = team.on_laptop(tmp_path / "eve", {"MLFLOW_TRACKING_URI": team.uri}, *TRAIN)
    assert (none.returncode, "rejected the credentials" in none.stderr) == (2, True)
    inside = team.on_laptop(
        tmp_path / "eve", {"MLFLOW_TRACKING_URI": team.uri.replace("//", "//eve:hunter2@")}, *TRAIN
    )
    assert (inside.returncode, "contains credentials" in inside.stderr) == (2, True)
    assert "hunter2" not in inside.stdout + inside.stderr


def test_the_admin_renews_its_own_password(team: Team) -> None:
    new = team.run_member("admin", "--renew").stdout.split("PASSWORD=")[1].strip()
    back = json.dumps({"username": "admin", "password": ADMIN[1], "current_password": new})
    assert (
        team.ask("PATCH", "/api/2.0/mlflow/users/update-password", ("admin", new), back)[0] == 200
    )


def test_secrets_are_in_no_command_line_and_no_log(team: Team) -> None:
    secrets = [value for name, value in SECRETS.items() if name != "AWS_ACCESS_KEY_ID"]
    lines = [
        path.read_bytes().decode()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if readable(path)
    ]
    assert any("mlflow\0server" in line for line in lines)
    assert not [line for line in lines for secret in secrets if secret in line]
    assert not [secret for secret in secrets if secret in team.log.read_text()]
    (config,) = (team.folder / "state" / "server").iterdir()
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.parent.stat().st_mode & 0o777 == 0o700
    assert not [secret for secret in secrets if secret in config.read_text()]


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:  # it ended meanwhile
        return False


def test_the_admin_cleans_up_and_files_go(
    team: Team, ada: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cleaned-deep_v1-standard"
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    admin = {"MLFLOW_TRACKING_URI": team.uri} | dict(zip(LOGIN, ADMIN, strict=True))
    for variable, value in admin.items():
        monkeypatch.setenv(variable, value)
    client = MlflowClient(tracking_uri=team.uri)
    client.create_registered_model(name, tags={"dataset": "cleaned"})
    owners = []
    for _ in range(3):
        run = client.create_run("0", tags={"eyevsai.schema": "2", "eyevsai.job": "train"})
        client.log_artifact(run.info.run_id, str(tmp_path / "model.safetensors"))
        model = client.create_logged_model("0", "model", source_run_id=run.info.run_id)
        client.log_model_artifact(model.model_id, str(tmp_path / "model.safetensors"))
        client.finalize_logged_model(model.model_id, "READY")
        client.set_terminated(run.info.run_id)
        client.create_model_version(
            name, f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id
        )
        owners.append({run.info.run_id, model.model_id})
    client.set_registered_model_alias(name, "production", "1")
    refused = team.on_laptop(tmp_path / "ada", ada, "cleanup", "--keep", "1", "--yes")
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), (
        refused.stdout + refused.stderr
    )
    assert "Ask the admin to run the cleanup" in refused.stderr
    # or nobody could promote them
    assert not any("deleting" in tag for tag in client.get_registered_model(name).tags)
    assert len(versions_of(team, name)) == 3
    done = team.on_laptop(tmp_path / "admin", admin, "cleanup", "--keep", "1", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(int(version.version) for version in versions_of(team, name)) == [1, 3]
    files = [
        {owner for owner in set.union(*owners) if f"/{owner}/" in key} for key in team.list_files()
    ]
    left = set.union(*files)
    assert left == owners[0] | owners[2]
