"""`python -m graticule` is the `graticule` command."""

from graticule.cli import main

if __name__ == "__main__":
    main()
