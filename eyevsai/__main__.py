"""`python -m eyevsai` is the same as `eyevsai`."""

from eyevsai.cli import main

main()
