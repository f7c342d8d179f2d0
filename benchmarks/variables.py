"""Environment variables of the benchmarks that are numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TypeVar

N = TypeVar("N", int, float)


def parse_numbers(name: str, text: str, example: str, kind: type[N], minimum: N) -> list[N]:
    """Return the numbers of a text, separated by commas or spaces.

    Exits with an error if one of them is not a number of this kind, or is less than `minimum`.

    Args:
        name: name of the variable, for the message.
        text: value of the variable.
        example: a valid value, for the message.
        kind: int or float.
        minimum: smallest valid number.
    """
    try:
        numbers = [kind(part) for part in text.replace(",", " ").split()]
        is_valid = all(math.isfinite(number) and number >= minimum for number in numbers)
    except ValueError:
        is_valid = False
    if not is_valid:
        noun = "integers" if kind is int else "numbers"
        raise SystemExit(
            f"{name}={text} is invalid. Use {noun} of {minimum} or more, such as {example}."
        )
    return numbers


def read_numbers(name: str, default: Sequence[N], kind: type[N], minimum: N) -> Sequence[N]:
    """Return the numbers of an environment variable, or `default` if it is not set or empty.

    Exits with an error if one of them is not a number of this kind, or is less than `minimum`.
    """
    example = ",".join(map(str, default))
    return parse_numbers(name, os.environ.get(name, ""), example, kind, minimum) or default


def read_number(name: str, default: N, minimum: N) -> N:
    """Return the number of an environment variable, or `default` if it is not set or empty.

    Exits with an error if it is not one number of the kind of `default`, or less than `minimum`.
    """
    numbers = read_numbers(name, [default], type(default), minimum)
    if len(numbers) != 1:
        raise SystemExit(
            f"{name}={os.environ[name]} is invalid. Use one number, such as {default}."
        )
    return numbers[0]
