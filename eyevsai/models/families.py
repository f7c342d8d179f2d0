"""The table of families. Everything that differs between families is reached through it."""

from __future__ import annotations

from importlib import import_module

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose, choose_listed
from eyevsai.models.family import Family, Variation

FAMILIES = {
    "deep_v1": "eyevsai.models.deep_v1.settings",
    "deep_v2": "eyevsai.models.deep_v2.settings",
    "shallow": "eyevsai.models.shallow.settings",
    "transfer": "eyevsai.models.transfer.settings",
}


def family_of(name: str) -> Family:
    """The declaration of a family, read without importing torch.

    Raises:
        UserError: no such family; the message names the nearest.
    """
    declared: Family = import_module(FAMILIES[choose("model", name, FAMILIES)]).FAMILY
    return declared


def variation_of(family: str, name: str | None) -> tuple[str, Variation]:
    """The named variation, or the family's first when `name` is None, with its name.

    Raises:
        UserError: no such family or variation; the message names the nearest.
    """
    variations = family_of(family).variations
    if name is None:
        name = next(iter(variations))
    elif name not in variations:
        owners = [other for other in FAMILIES if name in family_of(other).variations]
        if owners:
            raise UserError(
                f"{name!r} is a variation of {owners[0]}, not of {family}: add --model {owners[0]}."
            )
        choose(f"{family} variation", name, variations)
    return name, variations[name]


def choose_models(text: str) -> list[tuple[str, str]]:
    """Family and variation of all models that a list such as `deep_v1,deep_v2/resnet` names, in the
    table's order.

    Raises:
        UserError: one is not known; the message names the nearest.
    """
    pairs = [(family, name) for family in FAMILIES for name in family_of(family).variations]
    named = choose_listed("model", text, [*FAMILIES, *("/".join(pair) for pair in pairs)])
    return [pair for pair in pairs if pair[0] in named or "/".join(pair) in named]
