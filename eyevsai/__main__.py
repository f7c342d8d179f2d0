"""`python -m eyevsai` is the same as `eyevsai`."""

from eyevsai.cli.main import main

main()
