"""`python -m headrace` does what `headrace` does."""

from headrace.cli import main

main()
