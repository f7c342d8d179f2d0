"""Scripts of the comparison. Each runs as a file in the environment of its project.

`python SCRIPT TASK JSON` runs one task with the arguments of a JSON object, and prints an object
with `values` (numbers by name) as its last line. `time_budget` is a module that they import.
"""
