"""Look-up of the version that a reference names, for all commands and the Python API."""

from __future__ import annotations

import logging

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import SCHEME, VERSION_FORMS, ModelRef, parse_model
from eyevsai.core.names import nearest
from eyevsai.registry.entities import (
    KnownVersion,
    RegisteredModel,
    find_model,
    missing_model,
    open_registry,
    read_model,
    read_models,
)
from eyevsai.registry.stages import (
    STAGES,
    find_inconsistencies,
    reservation_error,
    reserved_versions,
    stage_holder,
)
from eyevsai.registry.versions import Version, resolve_reference, version_of_run
from eyevsai.store.backend import MISSING_OR_INVALID
from eyevsai.store.tags import SOURCE_VERSION

log = logging.getLogger("eyevsai")

SHOWN_VERSIONS = 20  # versions in an error message, the newest ones


def find_version(tracking_uri: str, model: str | ModelRef) -> Version:
    """Return the version that a reference names; its tags include those of its source version.

    `NAME/Production` and `NAME/Staging` follow the alias of the stage: if that or the stage was set
    by hand, the one that was changed, with a warning until they are reconciled. A run names the
    version that it registered, and a logged model the newest version of it.

    Raises:
        UserError: the reference names no version, or one that does not exist.
    """
    reference = parse_model(model) if isinstance(model, str) else model
    client = open_registry(tracking_uri)
    if reference.is_version:
        version = _find_registered(client, reference)
    elif reference.run_id is not None:
        return _find_of_run(tracking_uri, reference)
    elif reference.model_id is not None:
        version = _find_of_logged_model(client, reference.model_id)
    elif reference.name is not None:
        raise _unspecific_error(read_model(client, reference.name), reference)
    else:
        raise UserError(
            f"{reference.text} is a path, but a registered version is required. Use "
            f"{VERSION_FORMS}; `eyevsai registry status` lists the versions."
        )
    return resolve_reference(client, version)


def find_name(tracking_uri: str, model: str) -> tuple[str, int | None]:
    """Return the registered model that a reference names, and the number of its version.

    The number is None if the reference is the name. Neither a name nor a number is looked up: the
    audit log has entries of deleted models and versions.

    Raises:
        UserError: the reference is a path, or an alias, a stage or a run without a version.
    """
    reference = parse_model(model)
    if reference.is_name or reference.version is not None:
        return str(reference.name), reference.version
    if reference.alias and _is_model(tracking_uri, model):
        return model.removeprefix(SCHEME), None  # the name contains @
    version = find_version(tracking_uri, reference)
    return version.name, int(version.number)


def find_dataset(tracking_uri: str, name: str) -> str | None:
    """Return the dataset of the registered model `name`; None if it is not recorded."""
    model = find_model(open_registry(tracking_uri), name)
    return model.tags.get("dataset") if model else None


def _is_model(tracking_uri: str, text: str) -> bool:
    return find_model(open_registry(tracking_uri), text.removeprefix(SCHEME)) is not None


def check_not_reserved(tracking_uri: str, uri: str) -> None:
    """Raise UserError if a cleanup is deleting or has deleted the version of a URI.

    A text that is not the URI of a version by its number passes. Call this after a run has been
    tagged with the version: then either the cleanup sees the run, or this sees the reservation.
    """
    if not uri.startswith(SCHEME) or parse_model(uri).version is None:
        return
    version = find_version(tracking_uri, uri)
    model = MlflowClient(tracking_uri=tracking_uri).get_registered_model(version.name)
    if int(version.number) in reserved_versions(model.tags):
        raise reservation_error(uri)


def _find_registered(client: MlflowClient, reference: ModelRef) -> Version:
    """Return the version of a reference by number, alias or stage."""
    name = str(reference.name)
    if reference.version is not None:
        try:
            entity = client.get_model_version(name, str(reference.version))
        except MlflowException as error:
            if error.error_code not in MISSING_OR_INVALID:
                raise
        else:
            run_id = entity.run_id or ""
            return Version(entity.name, str(entity.version), run_id, dict(entity.tags))
    model = find_model(client, name)
    if model is None:
        raise missing_model(client, name)
    match = next(
        (each for each in model.versions if each.number == _select(model, reference)), None
    )
    if match is None:
        raise _missing_version(model, reference)
    _warn_if_inconsistent(model, reference)
    return _to_version(match)


def _select(model: RegisteredModel, reference: ModelRef) -> int | None:
    """Return the number of the version with an alias or in a stage; None if there is none."""
    if reference.alias is not None:
        return model.aliases.get(reference.alias)
    if reference.stage in STAGES:
        return stage_holder(model, reference.stage).version
    numbers = [
        each.number for each in model.versions if reference.stage in ("latest", each.stage.lower())
    ]
    return max(numbers, default=None)


def _warn_if_inconsistent(model: RegisteredModel, reference: ModelRef) -> None:
    """Log a warning if alias and stage of the referenced stage differ."""
    stage = reference.stage or reference.alias
    if stage in STAGES and stage_holder(model, stage).by_hand is not None:
        for text in find_inconsistencies(model, (stage,)):
            log.warning("%s: %s", reference.text, text)


def _find_of_run(tracking_uri: str, reference: ModelRef) -> Version:
    if reference.is_export:
        raise UserError(
            f"{reference.text} is an export, but a registered version is required. Use "
            f"{VERSION_FORMS}, or the run id for the version that it registered."
        )
    version = version_of_run(tracking_uri, str(reference.run_id))
    if version is None:
        raise UserError(
            f"Run {reference.run_id} has no registered version, which is required. Use "
            f"{VERSION_FORMS}; `eyevsai registry status` lists the versions."
        )
    return version


def _find_of_logged_model(client: MlflowClient, model_id: str) -> Version:
    """Return the newest version of a logged model; a reference only if there is no other."""
    versions = [
        each
        for model in read_models(client)
        for each in model.versions
        if each.model_id == model_id
    ]
    if not versions:
        raise UserError(
            f"{SCHEME}{model_id} is not registered as a version, which is required. Use "
            f"{VERSION_FORMS}; `eyevsai registry status` lists the versions."
        )
    return _to_version(max(versions, key=_originality))


def _originality(version: KnownVersion) -> tuple[bool, int, int]:
    return SOURCE_VERSION not in version.tags, version.created_ms, version.number


def _to_version(version: KnownVersion) -> Version:
    return Version(version.name, str(version.number), version.run_id, version.tags)


def _unspecific_error(model: RegisteredModel, reference: ModelRef) -> UserError:
    """Return the error for the name of a registered model where a version is required."""
    newest = model.versions[-1].argument if model.versions else f"{model.name}/VERSION"
    return UserError(
        f"{reference.text!r} names a registered model, but no version of it. "
        f"{_list_versions(model)} Use one of them, such as {newest}."
    )


def _missing_version(model: RegisteredModel, reference: ModelRef) -> UserError:
    """Return the error for a number, an alias or a stage that no version has."""
    name = repr(model.name)
    if reference.version is not None:
        problem = f"There is no version {reference.version} of the registered model {name}."
    elif reference.alias is not None:
        aliases = ", ".join(
            f"{alias} (version {number})" for alias, number in sorted(model.aliases.items())
        )
        guess = nearest(reference.alias, model.aliases)
        hint = f" Did you mean {guess!r}?" if guess else ""
        problem = (
            f"The registered model {name} has no alias {reference.alias!r}.{hint} Its aliases: "
            f"{aliases or 'none'}."
        )
    else:
        stage = str(reference.stage)
        problem = (
            f"The registered model {name} has no versions."
            if stage == "latest"
            else f"No version of the registered model {name} is in the stage {stage.title()}."
        )
    # an alias or a stage that was removed by hand takes precedence over the other
    stages = [each for each in STAGES if each in (reference.stage, reference.alias)]
    mismatches = "".join(f" {text}" for text in find_inconsistencies(model, stages))
    return UserError(
        f"{problem} {_list_versions(model)} `eyevsai registry status` shows their stages and "
        f"aliases.{mismatches}"
    )


def _list_versions(model: RegisteredModel) -> str:
    """Return a sentence with the newest versions of a registered model and what they hold."""
    rows = []
    for each in reversed(model.versions[-SHOWN_VERSIONS:]):
        notes = [*(f"@{alias}" for alias in each.aliases)]
        notes += [each.stage] if each.stage.lower() in STAGES else []
        rows.append(f"{each.number} ({', '.join(notes)})" if notes else str(each.number))
    rest = len(model.versions) - len(rows)
    more = f" and {rest} older ones" if rest > 0 else ""
    return f"Its versions: {', '.join(rows) or 'none'}{more}."
