"""``python -m reference_pipeline``: the command."""

from .cli import main

if __name__ == "__main__":  # processes that the command spawns import this module too
    main()
