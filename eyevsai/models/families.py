"""The table of families. Everything that differs between families is reached through it."""

from __future__ import annotations

from importlib import import_module

from eyevsai.errors import UserError
from eyevsai.models.family import Family, Variation
from eyevsai.names import choose

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
            raise UserError(f"{name!r} is a variation of {owners[0]}, not of {family}: add --model {owners[0]}.")
        choose(f"{family} variation", name, variations)
    return name, variations[name]
