"""Class maps: names of classes in the evaluation data, and the model's names for them."""

from __future__ import annotations

from eyevsai.core.errors import UserError
from eyevsai.core.toml import read_toml


def read_class_map(path: str | None) -> dict[str, str]:
    """Return the content of a `--class-map` file; {} without a file.

    Raises:
        UserError: the file cannot be read, or a value is not text.
    """
    if path is None:
        return {}
    class_map = read_toml(path, "--class-map", '"name in --data" = "name in the model"')
    invalid = [name for name, value in class_map.items() if not isinstance(value, str)]
    if invalid:
        raise UserError(
            f"--class-map {path}: the value of {invalid[0]} is not text. Use lines such as "
            '"name in --data" = "name in the model".'
        )
    return class_map
