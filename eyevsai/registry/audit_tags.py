"""Keys of the tags that name the registered models of an audit entry."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

MODEL = "model."  # prefix of a tag for each registered model that a call concerns
KEY_LENGTH = 250  # characters of the key of a tag


def model_tag(name: str) -> str:
    """Return the key of the tag with the versions of a registered model that a call concerns.

    MLflow allows fewer characters in keys than in names: others are written as `:HEX:`, which no
    name contains. A key that is too long ends with a digest.
    """
    escaped = re.sub(r"[^\w.\- ]", lambda match: f":{ord(match[0]):x}:", name)
    if len(MODEL) + len(escaped) <= KEY_LENGTH:
        return f"{MODEL}{escaped}"
    digest = f"::{hashlib.sha256(name.encode()).hexdigest()}"
    return f"{MODEL}{escaped[: KEY_LENGTH - len(MODEL) - len(digest)]}{digest}"


def model_of_tag(key: str, tags: Mapping[str, str]) -> str:
    """Return the name of the registered model in the key of a tag.

    Args:
        key: key, as `model_tag` returns it.
        tags: tags of the audit run; `model` is the name for a key that is too long to contain it.
    """
    if "::" in key and model_tag(tags.get("model", "")) == key:
        return tags["model"]
    escaped = key.removeprefix(MODEL)
    return re.sub(":([0-9a-f]{1,6}):", lambda match: chr(int(match[1], 16)), escaped)
