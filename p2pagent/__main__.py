"""`python -m p2pagent` is the command `p2pagent`."""

from p2pagent.cli import main

main()
