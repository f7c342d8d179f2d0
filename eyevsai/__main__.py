"""Entry point of `python -m eyevsai`, which equals the command `eyevsai`."""

from eyevsai.cli.main import main

if __name__ == "__main__":
    main()
