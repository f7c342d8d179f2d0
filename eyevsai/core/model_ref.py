"""References to models, as users type them: one grammar for all commands and the Python API.

Parsing needs neither the store nor the disk. `eyevsai.registry.lookup` finds the version of a
reference.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from eyevsai.core.errors import UserError
from eyevsai.core.shell import quote

# stages of MLflow, and its word for the newest version, in lower case
STAGE_WORDS = ("production", "staging", "archived", "none", "latest")
VERSION_FORMS = "NAME/VERSION, NAME@ALIAS or NAME/Production"
MODEL_FORMS = f"{VERSION_FORMS}, a run id, or the folder of a model or an export"
SCHEME, RUNS = "models:/", "runs:/"
EXPORTS = "exports"  # artifact folder of a run, with a folder for each export format
MAX_DIGITS = 18  # of the number of a version: more would exceed the integers of databases

# MLflow allows all characters except / and : in the name of a registered model
_VERSION = re.compile(r"(?P<name>[^/:]+)/(?P<suffix>[^/:@]+)", re.DOTALL)
_ALIAS = re.compile(r"(?P<name>[^/:]+)@(?P<alias>[\w-]+)", re.DOTALL)
_NAME = re.compile(r"[^/:]+", re.DOTALL)
_LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PATH_PREFIXES = ("/", "./", "../", "~/")
_IS_BACKSLASH_SEPARATOR = os.sep == "\\"


@dataclass(frozen=True)
class ModelRef:
    """Reference to a model: a registered model or version, a run, a logged model, or a path.

    Attributes:
        text: the reference as it was typed.
        name: name of the registered model, if it is one, or one of its versions.
        version: number of the version.
        alias: alias of the version.
        stage: one of `STAGE_WORDS`.
        run_id: id of the run, for a run or a URI `runs:/...`.
        artifact: path of an artifact of the run; empty for the run itself.
        model_id: id of a logged model.
    """

    text: str
    name: str | None = None
    version: int | None = None
    alias: str | None = None
    stage: str | None = None
    run_id: str | None = None
    artifact: str = ""
    model_id: str | None = None

    @property
    def is_version(self) -> bool:
        """True if the reference names one version of a registered model."""
        parts = (self.version, self.alias, self.stage)
        return self.name is not None and any(part is not None for part in parts)

    @property
    def is_name(self) -> bool:
        """True if the reference may be the name of a registered model."""
        return self.name is not None and not self.is_version

    @property
    def is_export(self) -> bool:
        """True if the reference is the URI of an export."""
        return self.artifact.startswith(f"{EXPORTS}/")

    @property
    def is_path(self) -> bool:
        """True if the reference can only be a path."""
        return self.name is None and self.run_id is None and self.model_id is None

    def has_same_target(self, other: ModelRef) -> bool:
        """Return True if the two are spellings of one reference."""
        if self.is_path or other.is_path:
            return self.text == other.text
        return vars(self) | {"text": ""} == vars(other) | {"text": ""}


def parse_model(text: str) -> ModelRef:
    """Return the reference in a text that a user typed.

    Raises:
        UserError: the text is empty or not valid Unicode, or it begins like a URI and is malformed.
    """
    if not text.strip():  # Path("") is the current folder
        raise UserError(f"The model's name is empty. Use {MODEL_FORMS}.")
    if "\0" in text or not _is_unicode(text):
        raise UserError(f"{text!r} is not a model: it is not valid text. Use {MODEL_FORMS}.")
    if text.startswith(("models:", "runs:")):
        return _parse_uri(text)
    if _RUN_ID.fullmatch(text):
        return ModelRef(text, run_id=text)
    if text.startswith(_PATH_PREFIXES) or (_IS_BACKSLASH_SEPARATOR and "\\" in text):
        return ModelRef(text)
    return _parse_registered(text, text) or ModelRef(text)


def to_text(model: str | os.PathLike[str]) -> str:
    """Return a reference to a model, or its path, as text.

    Raises:
        UserError: it has another type.
    """
    text = os.fspath(model) if isinstance(model, os.PathLike) else model
    if not isinstance(text, str):
        raise UserError(f"A model must be text or a path, not {text!r}. Use {MODEL_FORMS}.")
    return text


def check_trained(reference: ModelRef) -> None:
    """Raise UserError if the reference is a path or an export, which has no run or version."""
    if reference.is_path or reference.is_export:
        raise UserError(
            f"{reference.text} is {'an export' if reference.is_export else 'a path'}, but a run or "
            f"a registered version is required. Use a run id, {VERSION_FORMS}; `eyevsai registry "
            "status` lists the versions."
        )


def run_ref(run_id: str) -> ModelRef:
    """Return the reference to a run, whose id is not validated."""
    return ModelRef(run_id, run_id=run_id)


def parse_version_uri(uri: str) -> tuple[str, int] | None:
    """Return name and number in `models:/NAME/NUMBER`; None for any other text."""
    parts = _VERSION.fullmatch(uri.removeprefix(SCHEME)) if uri.startswith(SCHEME) else None
    return (parts["name"], int(parts["suffix"])) if parts and parts["suffix"].isdecimal() else None


def format_version(name: str, number: int | str) -> str:
    """Return `NAME/VERSION`, quoted for a shell, as the commands take it."""
    return quote(f"{name}/{number}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are not UTF-8
        return False
    return True


def _parse_uri(text: str) -> ModelRef:
    if text.startswith(RUNS):
        run_id, _, artifact = text.removeprefix(RUNS).strip("/").partition("/")
        if run_id:
            return ModelRef(text, run_id=run_id, artifact=artifact)
        raise UserError(f"{text} names no run. Use runs:/RUN_ID/PATH.")
    body = text.removeprefix(SCHEME)
    if text.startswith(SCHEME) and _LOGGED_MODEL.fullmatch(body):
        return ModelRef(text, model_id=body)
    reference = _parse_registered(text, body) if text.startswith(SCHEME) else None
    if reference is not None:
        return reference
    if (parts := _VERSION.fullmatch(body)) is not None:
        raise UserError(
            f"{text}: {parts['suffix']!r} is neither the number of a version nor a stage of MLflow "
            "(Production, Staging, Archived). For an alias, use "
            f"{SCHEME}{parts['name']}@{parts['suffix']}."
        )
    raise UserError(
        f"{text} is not the URI of a model. Use models:/NAME/VERSION, models:/NAME/Production or "
        "models:/NAME@ALIAS."
    )


def _parse_registered(text: str, body: str) -> ModelRef | None:
    """Return the reference to a registered model or version; None if `body` has no such form.

    A word after the slash that is neither a number nor a stage makes `body` a path.
    """
    if parts := _VERSION.fullmatch(body):
        name, suffix = parts["name"], parts["suffix"]
        if suffix.isdecimal():
            return ModelRef(text, name=name, version=int(suffix[:MAX_DIGITS]))
        stage = suffix.lower()
        return ModelRef(text, name=name, stage=stage) if stage in STAGE_WORDS else None
    if parts := _ALIAS.fullmatch(body):
        return ModelRef(text, name=parts["name"], alias=parts["alias"])
    return ModelRef(text, name=body) if _NAME.fullmatch(body) else None
