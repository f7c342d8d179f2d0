"""Entry points of MLproject, one module each."""
