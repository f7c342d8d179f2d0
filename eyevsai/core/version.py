"""Version of eyevsai, in a module of its own so that the lowest layers can import it."""

VERSION = "0.1.0"
