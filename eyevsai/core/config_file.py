"""Files of settings in YAML, JSON or TOML, read as texts with the rules of the command line.

`1e-3`, `yes` and `2026-11-28` are YAML for a text, a truth value and a date. Read as texts, they
mean the same as after an option.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand

YAML, TOML = (".yaml", ".yml", ".json"), (".toml",)  # JSON is a subset of YAML
LINES = {".toml": 'model = "deep_v1"', ".json": '{"model": "deep_v1"}'}
NULL = "tag:yaml.org,2002:null"  # tag of a null in YAML

Texts = dict[str, str | None]


class ListText(str):
    """Comma-separated text of a list."""

    __slots__ = ()


def read_config_file(path: str) -> Texts:
    """Return the settings of a file as texts by name, with underscores; None for a null.

    A list becomes a comma-separated `ListText`.

    Raises:
        UserError: the file cannot be read, is neither YAML, JSON nor TOML, names a setting twice,
            or has nested values.
    """
    suffix = expand(path).suffix.lower()
    if suffix not in YAML + TOML:
        raise UserError(
            f"--config {path} has no known format. Name the file {', '.join(YAML)} or {TOML[0]}; "
            "the settings of a run are run:ID."
        )
    try:
        text = expand(path).read_text(encoding="utf-8-sig")
        pairs = _parse_toml(text) if suffix in TOML else _parse_yaml(text)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # invalid syntax or invalid UTF-8
        reason = " ".join(str(error).split())
    else:
        return _collect(path, pairs)
    raise UserError(
        f"--config {path} cannot be read: {reason}. Use a text file in UTF-8 with lines such as "
        f"{LINES.get(suffix, 'model: deep_v1')}"
    )


def _collect(path: str, pairs: Iterable[tuple[str, Any]]) -> Texts:
    """Return the pairs of key and value by name; raise UserError for repeated or nested ones."""
    texts: Texts = {}
    for key, value in pairs:
        name = key.replace("-", "_")
        if name in texts:
            raise UserError(f"{path} sets {key} twice. Remove one of the two lines.")
        if isinstance(value, Mapping) or (
            isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value)
        ):
            raise UserError(
                f"{key} in {path} has nested values. Write each setting as a key of its own, "
                "outside of sections."
            )
        texts[name] = (
            ListText(",".join(to_text(each) or "" for each in value))
            if isinstance(value, list)
            else to_text(value)
        )
    return texts


def to_text(value: Any) -> str | None:
    """Return a value as it is written after an option: `true`, `0.001`; None for a null."""
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _parse_toml(text: str) -> Iterable[tuple[str, Any]]:
    # numbers stay as they are written
    return tomllib.loads(text, parse_float=str).items()


def _parse_yaml(text: str) -> Iterable[tuple[str, Any]]:
    """Return the keys and values of a YAML mapping; an empty file has none.

    Raises:
        ValueError: it is no valid YAML, or no mapping.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        pairs = [] if node is None else node.value
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise ValueError("it has no lines with KEY: VALUE")
        return [(str(key.value), _read_node(value)) for key, value in pairs]
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = problem or str(error) or type(error).__name__
        raise ValueError(f"its syntax is not valid{line}: {reason}") from error


def _read_node(node: Any) -> Any:
    """Return a scalar as its text, a null as None, a list of scalars, or {} for other values."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [
            _read_node(each) if isinstance(each, yaml.ScalarNode) else {} for each in node.value
        ]
    if not isinstance(node, yaml.ScalarNode):
        return {}
    return None if node.tag == NULL else str(node.value)
