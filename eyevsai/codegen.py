"""Writes MLproject, conda.yaml, docs/families.md and the API's keywords from the declarations, none
of them by hand.

python -m eyevsai.codegen           write all
python -m eyevsai.codegen --check   say which differ; exit code 1 when one does
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eyevsai import config
from eyevsai.cli.options import entry_points
from eyevsai.core.settings import Choice, Setting, list_settings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.base import Family
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.tuning.settings import TuneSettings

ROOT = Path(__file__).parents[1]
GENERATED = "Written by `python -m eyevsai.codegen`; change the declarations, not this file."
HEADER = f"# {GENERATED}\n"
CONDA_EXTRAS = ("tensorflow", "openvino", "offline", "data")
ABOUT_FAMILIES = """# The families

A family is an approach to image classification, and a variation is one architecture
of it. `--model` names the family, `--variation` the variation; without `--variation` the first is
taken. `--model family/variation` names both.

```console
$ eyevsai list                                            # what is below, in the terminal
$ eyevsai describe --model deep_v2 --variation hybrid     # layers, parameters, operations, papers
$ eyevsai train --model deep_v2 --help                    # what can be set
```
"""
API_TYPES_HEADER = '''"""The keywords of the API, for editors and type checkers.

`eyevsai train --model M --help` explains them.

Written by `python -m eyevsai.codegen`; change the declarations, not this file.
"""

from __future__ import annotations

import os
from typing import Literal, Required, TypedDict

Text = str | os.PathLike[str]
'''


def render_mlproject() -> str:
    """The text of MLproject: of each entry point the settings that are marked as parameters."""
    entries = "".join(_entry(name, settings) for name, settings in entry_points().items())
    return HEADER + "name: eyevsai\n\nconda_env: conda.yaml\n\nentry_points:\n" + entries


def render_conda(pyproject: dict[str, Any]) -> str:
    """The text of conda.yaml: the base dependencies, tensorflow, and weights that pip brings.

    The project itself is not listed: uv and virtualenv install these lines from a temporary
    folder, and the entry points run from the project's root.
    """
    project = pyproject["project"]
    pins = project["dependencies"] + [
        pin for extra in CONDA_EXTRAS for pin in project["optional-dependencies"][extra]
    ]
    lines = "".join(f'      - "{pin}"\n' for pin in pins)
    python = pyproject["tool"]["eyevsai"]["conda-python"]
    head = f"name: eyevsai\nchannels:\n  - conda-forge\ndependencies:\n  - python={python}\n"
    return f"{HEADER}{head}  - pip\n  - pip:\n{lines}"


def render_families() -> str:
    """The page that describes families and variations twice: for anyone, and for engineers."""
    return f"<!-- {GENERATED} -->\n\n{ABOUT_FAMILIES}" + "".join(
        _describe(get_family(name)) for name in FAMILIES
    )


def render_api_types() -> str:
    """The text of eyevsai/api_types.py: the settings of each function of the API by name and
    type.
    """
    train = config.all_train_settings()
    own = [setting for setting in train if setting.name in config.OF_TRAIN]
    trials = [setting for setting in train if setting.name not in config.OF_TRAIN]
    export = [setting for setting in list_settings(ExportSettings) if setting.name != "package"]
    tune = [*list_settings(TuneSettings), *list_settings(ExecutorSettings)]
    return API_TYPES_HEADER + "".join(
        [
            _keywords("TrialKeywords", "What trials and trainings have in common.", trials),
            _keywords(
                "TrainKeywords",
                "Of `train`; those of a family are for its models alone.",
                own,
                "TrialKeywords",
            ),
            _keywords("TuneKeywords", "Of `tune`.", tune, "TrialKeywords"),
            _keywords("EvaluateKeywords", "Of `evaluate`.", list_settings(EvaluateSettings)),
            _keywords("ExportKeywords", "Of `export`.", export),
            _keywords("PackageKeywords", "Of a package.", (), "ExportKeywords")
            + "    package: Required[str]\n",
        ]
    )


def _keywords(name: str, doc: str, settings: Iterable[Setting], base: str = "TypedDict") -> str:
    hints: dict[str, list[str]] = {}
    for setting in settings:  # families may allow a setting different values
        hint = _hint(setting)
        if hint not in hints.setdefault(setting.name, []):
            hints[setting.name].append(hint)
    lines = "".join(f"    {key}: {' | '.join(kinds)}\n" for key, kinds in hints.items())
    return f'\n\nclass {name}({base}, total=False):\n    """{doc}"""\n\n{lines}'


def _hint(setting: Setting) -> str:
    kind = "Text" if setting.type is str else setting.type.__name__
    if setting.type is str and isinstance(setting.allowed, Choice):
        kind = f"Literal[{', '.join(json.dumps(option) for option in setting.allowed.options)}]"
    return f"{kind} | None" if setting.optional else kind


def render_files() -> dict[Path, str]:
    """Path and text of each file that is written from declarations."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        ROOT / "MLproject": render_mlproject(),
        ROOT / "conda.yaml": render_conda(pyproject),
        ROOT / "docs" / "families.md": render_families(),
        ROOT / "eyevsai" / "api_types.py": render_api_types(),
    }


def _describe(family: Family) -> str:
    text = f"\n## `{family.name}`: {family.title[0].lower()}{family.title[1:]}\n\n"
    text += "| variation | for anyone |\n|---|---|\n"
    text += "".join(
        f"| `{name}` | {each.title}. {each.simple} |\n" for name, each in family.variations.items()
    )
    text += "\nFor engineers:\n\n"
    for name, each in family.variations.items():
        text += (
            f"- **`{name}`**: {each.technical}"
            + "".join(f"\n    - {paper}" for paper in each.papers)
            + "\n"
        )
    return text


def _entry(name: str, settings: tuple[Setting, ...]) -> str:
    declared = [setting for setting in settings if setting.parameter]
    types = {int: "float", float: "float"}
    lines = "".join(
        f"      {s.name}: {{type: {types.get(s.type, 'string')}, default: {_yaml(s.default)}}}\n"
        for s in declared
    )
    flags = " ".join(f"{setting.flag} {{{setting.name}}}" for setting in declared)
    return (
        f'  {name}:\n    parameters:\n{lines}    command: "python -m entrypoints.{name} {flags}"\n'
    )


def _yaml(value: object) -> str:
    return '""' if value is None else str(value)


def main() -> int:
    """Writes the files, or with --check says which differ; returns the exit code."""
    stale = [
        path
        for path, text in render_files().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    for path in stale:
        if "--check" in sys.argv:
            print(
                f"{path.name} differs from the declarations: run python -m eyevsai.codegen",
                file=sys.stderr,
            )
        else:
            path.write_text(render_files()[path], encoding="utf-8")
            print(f"wrote {path.name}")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
