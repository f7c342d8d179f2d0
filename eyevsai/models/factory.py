"""The table of families. Everything that differs between families is reached through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose, choose_listed
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


def get_family(name: str) -> Family:
    """The declaration of a family, read without importing torch.

    Raises:
        UserError: no such family; the message names the nearest.
    """
    declared: Family = import_module(FAMILIES[choose("model", name, FAMILIES)]).FAMILY
    return declared


@dataclass(frozen=True)
class ResolvedModel:
    """A family, one of its variations, and the declaration of that variation."""

    family: str
    variation: str
    declaration: Variation


def resolve_model(model: str, variation: str | None = None) -> ResolvedModel:
    """Return the model that `--model` and `--variation` name.

    Args:
        model: a family, or `family/variation`.
        variation: of the family; None takes the one in `model`, else the family's first.

    Raises:
        UserError: no such family or variation, with the nearest name; or two different variations.
    """
    family, slash, named = model.partition("/")
    if slash and not (family and named):
        raise UserError(f"--model {model} lacks a family or a variation: give FAMILY/VARIATION.")
    if named and variation not in (None, named):
        raise UserError(f"--model {model} contradicts --variation {variation}: leave one out.")
    variation = variation or named or None
    variations = get_family(family).variations
    if variation is None:
        variation = next(iter(variations))
    elif variation not in variations:
        owners = [other for other in FAMILIES if variation in get_family(other).variations]
        if owners:
            fix = f"use --model {owners[0]}/{named}" if named else f"add --model {owners[0]}"
            raise UserError(f"{variation!r} is a variation of {owners[0]}, not of {family}: {fix}.")
        choose(f"{family} variation", variation, variations)
    return ResolvedModel(family, variation, variations[variation])


def select_models(text: str) -> list[tuple[str, str]]:
    """Family and variation of all models that a list such as `deep_v1,deep_v2/resnet` names, in the
    table's order.

    Raises:
        UserError: one is not known; the message names the nearest.
    """
    pairs = [(family, name) for family in FAMILIES for name in get_family(family).variations]
    named = choose_listed("model", text, [*FAMILIES, *("/".join(pair) for pair in pairs)])
    return [pair for pair in pairs if pair[0] in named or "/".join(pair) in named]


def build(
    family: str, variation: str, settings: Settings, classes: Sequence[str], seed: int
) -> Learner:
    """A new learner, its initial weights drawn from `seed`."""
    module, _, name = get_family(family).learner.partition(":")
    learner: Learner = getattr(import_module(module), name)(
        variation, settings, tuple(classes), seed
    )
    return learner
