"""Numbers of things in words, for messages."""

from __future__ import annotations


def format_count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural with an s unless the number is 1.

    `format_count(1, "epoch")` is "1 epoch", `format_count(1200, "trained epoch")` is
    "1,200 trained epochs".
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
