"""Table of model families: the only access to code that is specific to a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import rename_settings
from eyevsai.core.names import choose, nearest
from eyevsai.core.settings import Settings
from eyevsai.models.base import Family, Variation

if TYPE_CHECKING:
    from eyevsai.models.learner import Learner

FAMILIES = {
    "deep_v1": "eyevsai.models.deep_v1.settings",
    "deep_v2": "eyevsai.models.deep_v2.settings",
    "shallow": "eyevsai.models.shallow.settings",
    "transfer": "eyevsai.models.transfer.settings",
}
MAX_GUESSES = 3  # models that a message suggests


def get_family(name: str) -> Family:
    """Return the declaration of a family without importing torch.

    Raises:
        UserError: the family does not exist; the message suggests the nearest name.
    """
    if name not in FAMILIES:
        raise _unknown_model_error(name)
    family: Family = import_module(FAMILIES[name]).FAMILY
    return family


@dataclass(frozen=True)
class ResolvedModel:
    """Names of a family and a variation, with the declaration of the variation."""

    family: str
    variation: str
    declaration: Variation


def resolve_model(model: str, variation: str | None = None) -> ResolvedModel:
    """Return the family and variation that `--model` and `--variation` select.

    Args:
        model: a family, or `family/variation`.
        variation: variation of the family; None selects the one in `model`, or else the first
            variation of the family.

    Raises:
        UserError: the family or variation does not exist (the message suggests the nearest name
            or the family that has the variation), or the arguments name different variations.
    """
    family, slash, suffix = model.partition("/")
    if slash and not (family and suffix):
        raise UserError(f"--model {model} lacks a family or a variation. Use FAMILY/VARIATION.")
    if suffix and variation not in (None, suffix):
        raise UserError(f"--model {model} contradicts --variation {variation}. Remove one of them.")
    variation = variation or suffix or None
    if family not in FAMILIES:
        raise _unknown_model_error(model)
    variations = get_family(family).variations
    if variation is None:
        variation = next(iter(variations))
    elif variation not in variations:
        owners = [other for other in FAMILIES if variation in get_family(other).variations]
        if owners:
            raise UserError(
                f"{variation!r} is a variation of {owners[0]}, not of {family}. Use --model "
                f"{owners[0]}/{variation}."
            )
        if "/" in variation:
            raise UserError(f"--variation {variation} contains a family. Use --model {variation}.")
        choose(f"{family} variation", variation, variations)
    return ResolvedModel(family, variation, variations[variation])


def select_models(text: str) -> list[tuple[str, str]]:
    """Return the (family, variation) pairs that a list such as `deep_v1,deep_v2/resnet` selects.

    A family selects all of its variations. The pairs are in the order of `FAMILIES`, each once.

    Raises:
        UserError: the list is empty or has an unknown name; the message suggests the nearest.
    """
    pairs = [(family, name) for family in FAMILIES for name in get_family(family).variations]
    valid = [*FAMILIES, *("/".join(pair) for pair in pairs)]
    names = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [name for name in names if name not in valid]:
        raise _unknown_model_error(unknown[0])
    if not names:
        raise UserError(f"{text!r} contains no model. Known: {', '.join(valid)}.")
    return [pair for pair in pairs if pair[0] in names or "/".join(pair) in names]


def _unknown_model_error(name: str) -> UserError:
    """Return the error for an unknown model; it suggests models whose name has similar letters."""
    pairs = [f"{family}/{each}" for family in FAMILIES for each in get_family(family).variations]
    names = {_letters(each): each for each in [*FAMILIES, *pairs]}
    variations = {_letters(pair.partition("/")[2]): pair for pair in reversed(pairs)}
    letters = _letters(name)
    if letters in names:
        guesses = [names[letters]]
    else:
        # resnet18 is no model here, but other ResNets are
        stem = letters if letters in variations else letters.rstrip("0123456789")
        exact = [variations[letters]] if letters in variations else []
        containing = [pair for key, pair in reversed(variations.items()) if stem in key]
        guesses = list(dict.fromkeys([*exact, *(containing if len(stem) > 1 else [])]))
        if not guesses and (guess := nearest(letters, [*names, *variations])):
            guesses = [names.get(guess) or variations[guess]]
    hint = f" Did you mean {' or '.join(map(repr, guesses[:MAX_GUESSES]))}?" if guesses else ""
    return UserError(
        f"There is no model {name!r}.{hint} Known: {', '.join(FAMILIES)}, or FAMILY/VARIATION, "
        "such as transfer/resnet50; see `eyevsai list`."
    )


def _letters(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return "".join(each for each in name.casefold() if each.isalnum())


def complete_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings of a run, completed by the variation that they name.

    Settings that name no model are renamed only; the others as `Variation.complete` does. Runs that
    predate `split_seed` used `seed` for the split.
    """
    try:
        model = resolve_model(str(stored.get("model")), stored.get("variation"))
    except UserError:
        return rename_settings(stored)
    completed = model.declaration.complete(stored)
    return completed if "seed" not in stored else {"split_seed": stored["seed"], **completed}


def build(
    family: str, variation: str, settings: Settings, classes: Sequence[str], seed: int
) -> Learner:
    """Build an untrained learner.

    Args:
        family: name of the family.
        variation: name of a variation of the family.
        settings: settings of the variation.
        classes: class names, in the order of the outputs.
        seed: seed of the initial weights and of all random draws of the training.
    """
    module, _, name = get_family(family).learner.partition(":")
    learner: Learner = getattr(import_module(module), name)(
        variation, settings, tuple(classes), seed
    )
    return learner
