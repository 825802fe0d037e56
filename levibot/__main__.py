"""`python -m levibot`."""

from levibot.cli import main

main()
