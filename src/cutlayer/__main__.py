"""`python -m cutlayer`."""

from cutlayer.cli import main

main()
