"""The image of deploy/eyevsai.Dockerfile: its steps are run as plain shell, then its commands.

No daemon builds it: see `tests/container.py`. Packages are those of `tests/wheelhouse.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, find_port
from tests.container import Image, build
from tests.ranges import read_pins, read_project
from tests.wheelhouse import REAL, write_wheelhouse

VERSION = "digits-deep_v1-standard/1"
TRAIN = ("train", "--epochs", "1", "--width", "8", "--threads", "1")
IMAGES, DIGITS = "/work/.cache/eyevsai/digits/3", set("0123456789")
OTHER_USER = "12345:12345"  # has no entry in /etc/passwd
READY_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("image")]


def is_executable_by(uid: int, program: str) -> bool:
    """Return True if a user can run a program; folders such as /root can be closed to others."""
    try:
        command = [program, "-c", ""]
        subprocess.run(command, user=uid, group=uid, extra_groups=[], check=True, cwd="/")
    except PermissionError:
        return False
    return True


def find_python(uid: int) -> str | None:
    """Return a Python of this version that a user can run; None if there is none."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [str(Path(sys.executable).resolve()), shutil.which(name, path="/usr/bin")]
    return next((each for each in candidates if each and is_executable_by(uid, each)), None)


def list_pins() -> list[str]:
    """Return the requirements of eyevsai with the versions of the constraints."""
    pins = read_pins("highest")
    names = [Requirement(each).name for each in read_project()["dependencies"]]
    return [str(pins[canonicalize_name(name)]) for name in names]


@pytest.fixture(scope="module")
def python() -> str | None:
    """Return a Python for the users of containers; None if this user cannot switch to them."""
    return find_python(1000) if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def image(python: str | None) -> Iterator[Image]:
    # pytest's own folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="eyevsai-image-"))
    folder.chmod(0o755)
    wheels = os.environ.get(REAL) or write_wheelhouse(
        folder / "wheelhouse", [*list_pins(), "setuptools"]
    )
    machine = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "OMP_NUM_THREADS": "1"}
    try:
        dockerfile = ROOT / "deploy" / "eyevsai.Dockerfile"
        yield build(dockerfile, folder / "stages", Path(python or sys.executable), machine)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def user(image: Image, python: str | None) -> str:
    """Return the user of the image, or root if root cannot switch to it here."""
    return image.user if python else "0:0"


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()


def check_health(image: Image, pid: int, user: str) -> str:
    """Run the health check of the image; return its line, "" if the container is healthy."""
    program, *words = image.health_check
    process = image.start(*words, str(pid), entrypoint=[program], user=user)
    output, _ = process.communicate(timeout=60)
    lines = output.splitlines()
    assert (process.returncode, len(lines)) in ((0, 0), (1, 1)), output
    return "".join(lines)


def wait_until_healthy(image: Image, process: subprocess.Popen[str], user: str) -> None:
    end = time.monotonic() + READY_S
    while failure := check_health(image, process.pid, user):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, failure
        time.sleep(0.5)


@pytest.mark.processes("the steps of the image are run by a shell")
def test_steps_leave_the_package_with_its_licence_and_nothing_else(image: Image) -> None:
    (about,) = (image.root / "usr/local/lib").glob("python*/site-packages/eyevsai-*.dist-info")
    licence = (ROOT / "LICENSE").read_bytes()
    assert (about / "licenses" / "LICENSE").read_bytes() == licence
    assert (image.working_folder, image.volumes) == ("/work", ["/work"])
    assert image.locate("").stat().st_mode & 0o7777 == 0o1777
    remains = {
        path.name for path in image.root.iterdir() if path.is_symlink() or any(path.iterdir())
    }
    assert remains == {"opt", "usr"}
    assert {path.name for path in image.locate("/opt/eyevsai").iterdir()} == {
        "constraints.txt",
        "healthcheck.py",
    }
    assert "Usage: eyevsai" in image.run()


@pytest.mark.processes("containers are processes")
def test_job_and_server_run_as_the_user_of_the_image_and_report_their_health(
    image: Image, user: str
) -> None:
    with ending(image.start(*TRAIN, user=user)) as job:
        heartbeats = image.locate(".local/state/eyevsai/runs")
        while not list(heartbeats.glob("*/heartbeat")):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.1)
        assert check_health(image, job.pid, user) == ""
        job.send_signal(signal.SIGSTOP)
        assert check_health(image, job.pid, user) == f"The main process (PID {job.pid}) is stopped."
        job.send_signal(signal.SIGCONT)
        output, _ = job.communicate(timeout=280)
        assert job.returncode == 0, output
        assert f"models:/{VERSION}" in output
    assert "does not exist" in check_health(image, job.pid, user)
    owner = image.locate("mlflow.db").stat().st_uid
    assert owner == (int(user.partition(":")[0]) if os.geteuid() == 0 else os.geteuid())

    lines = image.run("predict", VERSION, IMAGES, "--json", user=user).splitlines()
    assert len(lines) == len(list(image.locate(IMAGES).iterdir()))
    assert all(json.loads(line)["label"] in DIGITS for line in lines)

    port = find_port()
    serve = ("models", "serve", "-m", f"models:/{VERSION}", "--env-manager", "local")
    server = image.start(*serve, "--port", str(port), entrypoint=["mlflow"], user=user)
    with ending(server):
        failure = check_health(image, server.pid, user)
        assert failure.startswith(f"The server is unreachable: http://127.0.0.1:{port}/health")
        wait_until_healthy(image, server, user)


@pytest.fixture
def project(image: Image) -> Iterator[Path]:
    """A project folder of another user, mounted at /work."""
    folder = image.locate("")
    image_folder = folder.rename(folder.with_name("work-of-image"))
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)
    image_folder.rename(folder)


@pytest.mark.processes("containers are processes")
def test_files_belong_to_the_user_of_the_container(
    image: Image, python: str | None, project: Path
) -> None:
    if python is None:
        pytest.skip("this user cannot start processes of another one, or no Python is open to it")
    uid, gid = map(int, OTHER_USER.split(":"))
    os.chown(project, uid, gid)
    assert f"models:/{VERSION}" in image.run(*TRAIN, user=OTHER_USER)
    paths = list(project.rglob("*"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in paths} == {(uid, gid)}
    assert [path for path in paths if path.name == "__pycache__"] == []
    with ending(image.start("600", entrypoint=["sleep"], user=OTHER_USER)) as job:
        assert check_health(image, job.pid, OTHER_USER) == ""
        os.chown(project, 0, 0)
        failure = check_health(image, job.pid, OTHER_USER)
        assert failure == "The working folder is not writable: Permission denied."
