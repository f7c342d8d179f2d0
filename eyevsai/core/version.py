"""The version, kept apart so that the lowest floors can read it."""

VERSION = "0.1.0"
