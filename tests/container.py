"""Builds of Dockerfiles and containers without a daemon: plain shell in a folder.

A stage is a folder with an environment of Python at `usr/local`. RUN lines are run by `sh`, and the
image's absolute paths in them, such as /work, are replaced by paths in the folder. Nothing is
isolated: steps can read the machine, and those that change it (apt-get, useradd) must not be run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.invoke import ROOT

PYTHON = "/usr/local/bin"
# absolute paths, of which those of the machine's own folders stay; not the paths of URLs
PATHS = re.compile(r"(?<![\w.:/-])/(?!(?:bin|dev|etc|lib|proc|sys|usr/bin)\b)[\w.-]+")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    text: str  # without flags
    flags: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Return the words of the exec form (JSON), or else those of the text."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)


def read_dockerfile(path: Path) -> list[Instruction]:
    """Return the instructions of a Dockerfile, with their continuation lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    instructions = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, text = line.strip().partition(" ")
            flags = {}
            while match := re.match(r"--([\w-]+)=(\S+)\s+", text):
                flags[match[1]] = match[2]
                text = text[match.end() :]
            instructions.append(Instruction(name.upper(), text.strip(), flags))
    return instructions


def sources_of(instructions: Sequence[Instruction]) -> list[str]:
    """Return the paths of the build context that a Dockerfile copies."""
    return [
        source
        for each in instructions
        if each.name in ("COPY", "ADD") and "from" not in each.flags
        for source in each.words()[:-1]
    ]


class Ignored:
    """Rules of a .dockerignore file: the last one that matches a path or one of its folders wins.

    https://docs.docker.com/build/concepts/context/#dockerignore-files
    """

    def __init__(self, text: str) -> None:
        self.rules = []
        for line in text.splitlines():
            if (pattern := line.strip()) and not pattern.startswith("#"):
                name = pattern.removeprefix("!").strip("/")
                self.rules.append((not pattern.startswith("!"), _compile(name)))

    def __contains__(self, path: str) -> bool:
        """Return True for a path of the build context that is ignored."""
        parts = Path(path).parts
        paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        ignored = False
        for is_exclusion, rule in self.rules:
            if any(map(rule.fullmatch, paths)):
                ignored = is_exclusion
        return ignored


def _compile(pattern: str) -> re.Pattern[str]:
    """Return a pattern of Go's filepath.Match with `**`: `*` does not match a slash."""
    pieces = re.split(r"(\*\*/?|\*|\?)", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(special.get(piece) or re.escape(piece) for piece in pieces))


@dataclass
class Image:
    """A stage of a build: its folder on this machine and its settings."""

    root: Path
    machine: Mapping[str, str]  # environment variables that all processes get
    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    working_folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)

    def locate(self, path: str) -> Path:
        """Return the path on this machine of an absolute path, or one in the working folder."""
        return self.root / os.path.join(self.working_folder, path).lstrip("/")

    def translate(self, text: str) -> str:
        """Return a text with the image's absolute paths replaced by those on this machine."""
        return PATHS.sub(lambda match: f"{self.root}{match[0]}", text)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a process in the image."""
        path = f"{self.root}{PYTHON}:/usr/bin:/bin"
        own = {name: self.translate(value) for name, value in self.env.items()}
        return {**self.machine, "HOME": str(self.root / "root"), "PATH": path, **own}

    def start(
        self,
        *command: str,
        entrypoint: Sequence[str] | None = None,
        user: str | None = None,
    ) -> subprocess.Popen[str]:
        """Start a container: the entry point with a command, in the working folder.

        Args:
            command: replaces CMD.
            entrypoint: replaces ENTRYPOINT.
            user: numeric `UID:GID` that replaces USER. Only root can be another user: others start
                the process as themselves.
        """
        words = [*(self.entrypoint if entrypoint is None else entrypoint)]
        words += command or self.command
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            uid, gid = map(int, (user or self.user).split(":"))
            identity = {"user": uid, "group": gid, "extra_groups": []}
        environment = self.environment()
        program = shutil.which(self.translate(words[0]), path=environment["PATH"])
        assert program is not None, f"{words[0]} is not in the image"
        return subprocess.Popen(
            [program, *map(self.translate, words[1:])],
            cwd=self.locate(""),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **identity,
        )

    def run(self, *command: str, code: int = 0, **options: Any) -> str:
        """Run a container as `start` does, check its exit code, and return its output."""
        process = self.start(*command, **options)
        try:
            output, _ = process.communicate(timeout=280)
        finally:
            process.kill()
        assert process.returncode == code, f"{command}: {process.returncode}\n{output}"
        return output


def build(
    dockerfile: Path,
    folder: Path,
    python: Path,
    machine: Mapping[str, str],
    arguments: Mapping[str, str] | None = None,
) -> Image:
    """Run the instructions of a Dockerfile and return the image of its last stage.

    Args:
        dockerfile: file in this checkout, which is the build context.
        folder: folder of the stages; it is created.
        python: interpreter of the base images.
        machine: environment variables that all processes get, such as pip's settings.
        arguments: values of ARG instructions.
    """
    ignored = Ignored((ROOT / ".dockerignore").read_text())
    stages: dict[str, Image] = {}
    for each in read_dockerfile(dockerfile):
        if each.name == "FROM":
            name = each.text.partition(" AS ")[2] or str(len(stages))
            stages[name] = image = Image(_make_base(folder / name, python), machine)
        elif each.name == "RUN":
            _run_step(image, each, stages)
        elif each.name == "COPY":
            _copy(image, each, stages, ignored)
        else:
            _set(image, each, arguments or {})
    return image


def _make_base(root: Path, python: Path) -> Path:
    """Create and return the folder of an image with nothing but Python and pip."""
    root.mkdir(parents=True)
    (root / "root").mkdir()
    (root / "tmp").mkdir(mode=0o1777)
    venv = [str(python), "-m", "venv", str(root / "usr" / "local")]
    subprocess.run(venv, check=True, capture_output=True, timeout=120)
    return root


def _run_step(image: Image, step: Instruction, stages: Mapping[str, Image]) -> None:
    with ExitStack() as mounts:
        if "mount" in step.flags:
            mounts.enter_context(_mounted(image, step.flags["mount"], stages))
        finished = subprocess.run(
            ["sh", "-c", image.translate(step.text)],
            cwd=image.locate(""),
            env=image.environment() | {k: image.translate(v) for k, v in image.arguments.items()},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert finished.returncode == 0, f"{step.text}\n{finished.stdout}{finished.stderr}"


@contextmanager
def _mounted(image: Image, mount: str, stages: Mapping[str, Image]) -> Iterator[None]:
    """Make a folder of another stage available for one step."""
    options = dict(each.split("=") for each in mount.split(","))
    assert options["type"] == "bind", mount
    target = image.locate(options["target"])
    target.symlink_to(stages[options["from"]].locate(options["source"]))
    yield
    target.unlink()


def _copy(image: Image, step: Instruction, stages: Mapping[str, Image], ignored: Ignored) -> None:
    """Copy files and the contents of folders, from another stage or from the build context."""
    *sources, target = step.words()
    stage = stages[step.flags["from"]] if "from" in step.flags else None
    for source in sources:
        path = stage.locate(source) if stage else ROOT / source
        assert path.exists(), f"COPY {source}: it does not exist"
        assert stage or source not in ignored, f"COPY {source}: it is ignored"
        if path.is_dir():
            files = {file: file.relative_to(path) for file in path.rglob("*") if file.is_file()}
        else:
            files = {path: Path(path.name if target.endswith("/") else "")}
        for file, name in files.items():
            if stage or file.relative_to(ROOT).as_posix() not in ignored:
                copy = image.locate(target) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)


def _set(image: Image, each: Instruction, arguments: Mapping[str, str]) -> None:
    """Apply an instruction that changes the settings of an image."""
    match each.name:
        case "ARG":
            name, _, default = each.text.partition("=")
            image.arguments[name] = arguments.get(name, default.strip('"'))
        case "ENV" | "LABEL":
            values = dict(word.split("=", 1) for word in each.words())
            (image.env if each.name == "ENV" else image.labels).update(values)
        case "WORKDIR":
            image.working_folder = os.path.join(image.working_folder, each.text)
            image.locate("").mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = each.text
        case "VOLUME":
            image.volumes += each.words()
        case "ENTRYPOINT":
            image.entrypoint = each.words()
        case "CMD":
            image.command = each.words()
        case "HEALTHCHECK":
            image.health_check = Instruction("CMD", each.text.removeprefix("CMD ")).words()
        case _:
            raise AssertionError(f"{each.name} is not supported")
