"""The names that programs import, what they take, and the fields of what they return, are those on
record.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, get_overloads

import eyevsai
from eyevsai import api_types
from eyevsai.evaluation.significance import Difference, Interval
from eyevsai.formats.parity import ParityResult
from eyevsai.workflows.evaluate.compare import ComparedModel, Pair
from tests.conftest import ROOT

HERE = Path(__file__).parent
PARTS = (ComparedModel, Pair, Difference, Interval, ParityResult)  # of results


def describe_api() -> dict[str, Any]:
    """Every public name: signature, fields, or public methods; and the keywords that signatures
    speak of.
    """
    described = {
        name: _describe(getattr(eyevsai, name)) for name in eyevsai.__all__ if name != "__version__"
    }
    described |= {found.__name__: _describe(found) for found in PARTS}
    for name, found in inspect.getmembers(api_types, inspect.isclass):
        if name.endswith("Keywords"):
            described[name] = {
                key: hint.__forward_arg__ for key, hint in found.__annotations__.items()
            }
    return described


def _describe(found: Any) -> Any:
    if dataclasses.is_dataclass(found):
        return {field.name: field.type for field in dataclasses.fields(found)}
    if not inspect.isclass(found):
        return [
            str(inspect.signature(each)).replace("'", "")
            for each in get_overloads(found) or [found]
        ]
    if issubclass(found, Exception):
        return [base.__name__ for base in found.__mro__[1:-2]]
    public = {name: member for name, member in vars(found).items() if not name.startswith("_")}
    return {
        name: str(
            inspect.signature(member.fget if isinstance(member, property) else member)
        ).replace("'", "")
        for name, member in public.items()
    }


def test_the_api_is_the_one_on_record() -> None:
    assert describe_api() == json.loads((HERE / "api.json").read_text())


def test_every_function_shows_how_it_is_called() -> None:
    for name in ("train", "tune", "evaluate", "compare", "export", "load"):
        assert f"eyevsai.{name}(" in (inspect.getdoc(getattr(eyevsai, name)) or ""), name


def test_types_are_shipped() -> None:
    import tomllib

    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["eyevsai"]
    assert "py.typed" in packed
    assert (ROOT / "eyevsai" / "py.typed").is_file()


if __name__ == "__main__":  # records anew, after a change that is meant to change it
    (HERE / "api.json").write_text(json.dumps(describe_api(), indent=2) + "\n")
