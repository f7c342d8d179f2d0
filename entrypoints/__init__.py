"""The entry points that MLproject names, one module each."""
