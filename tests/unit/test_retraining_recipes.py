"""The recipes of docs/retraining.md: each calls `eyevsai watch` with options that exist."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import yaml

from eyevsai.core.settings import list_settings
from eyevsai.retraining.settings import RetrainingPolicy
from eyevsai.workflows.watch.settings import WatchSettings, read_watch_policy
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "retraining.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"<!-- recipe: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def check_command(command: str) -> None:
    """Check that a command is `eyevsai watch NAME` with options of it."""
    words = shlex.split(command)
    start = next(index for index, word in enumerate(words) if word.endswith("eyevsai"))
    words = [word for word in words[start + 1 :] if word not in ("--quiet", "--verbose")]
    assert words[:2] == ["watch", "NAME"]
    options = {each.flag for each in list_settings(WatchSettings)}
    assert {word for word in words if word.startswith("--")} <= options


def test_each_recipe_is_tested() -> None:
    assert set(RECIPES) == {"cron", "systemd", "github"}


def test_cron() -> None:
    (line,) = RECIPES["cron"].splitlines()
    minute, hour, day, month, weekday, command = line.split(None, 5)
    assert re.fullmatch(r"\*/\d+", minute)
    assert [hour, day, month, weekday] == ["*"] * 4
    check_command(command.partition("&&")[2].partition(">>")[0])


def test_systemd() -> None:
    service, timer = re.split(r"# /etc/systemd/system/\S+\n", RECIPES["systemd"])[1:]
    parsed = [configparser.ConfigParser(interpolation=None) for _ in range(2)]
    for parser, text in zip(parsed, (service, timer), strict=True):
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read_string(text)
    assert parsed[0]["Service"]["Type"] == "oneshot"
    check_command(parsed[0]["Service"]["ExecStart"])
    assert parsed[1]["Timer"]["OnCalendar"] == "*:0/10"


def test_github() -> None:
    recipe = yaml.safe_load(RECIPES["github"])
    (job,) = recipe["jobs"].values()
    (step,) = job["steps"]
    check_command(step["run"])
    assert recipe["concurrency"]
    secrets = [name for name, value in job["env"].items() if "secrets." in value]
    assert "EYEVSAI_LOG" in secrets


def test_policy_of_the_page_has_the_defaults(tmp_path: Path) -> None:
    text = re.search(r"```toml\n(# retraining.toml\n.*?)```", PAGE, re.DOTALL)
    assert text is not None
    path = tmp_path / "retraining.toml"
    path.write_text(text[1], encoding="utf-8")
    policy = read_watch_policy(str(path))
    assert policy.rules == RetrainingPolicy()
    assert policy.train == {}
    # all settings are listed, those without a default as comments
    shown = re.findall(r"^(?:# )?(\w+) = ", text[1], re.MULTILINE)
    names = [each.name for each in list_settings(RetrainingPolicy)]
    assert set(names) <= set(shown)
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text[1], flags=re.MULTILINE)
    path.write_text(uncommented.partition("\n")[2], encoding="utf-8")
    assert tomllib.loads(path.read_text(encoding="utf-8"))["max_age_days"] == 90
    assert read_watch_policy(str(path)).train == {"epochs": 20}
