"""`python -m pymixtral` is the command `pymixtral`."""

from pymixtral.cli.main import main

main()
