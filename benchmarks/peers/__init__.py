"""Comparison with other projects: the same work, photographs and cores, interleaved.

Each peer is installed in an environment of its own, never in that of eyevsai, and is used as its
documentation recommends, by a script of `scripts/` that runs in that environment. `rows` has the
rows that compare speed and memory, and `accuracy` the one that compares accuracy at equal times.
"""
