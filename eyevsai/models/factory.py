"""The table of families. Everything that differs between families is reached through it."""

from __future__ import annotations

from collections.abc import Sequence
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


def get_variation(family: str, name: str | None) -> tuple[str, Variation]:
    """The named variation, or the family's first when `name` is None, with its name.

    Raises:
        UserError: no such family or variation; the message names the nearest.
    """
    variations = get_family(family).variations
    if name is None:
        name = next(iter(variations))
    elif name not in variations:
        owners = [other for other in FAMILIES if name in get_family(other).variations]
        if owners:
            raise UserError(
                f"{name!r} is a variation of {owners[0]}, not of {family}: add --model {owners[0]}."
            )
        choose(f"{family} variation", name, variations)
    return name, variations[name]


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
