"""`python -m vaefarm_producer`: the same as `vaefarm`."""

from .cli import main

if __name__ == "__main__":
    main()
