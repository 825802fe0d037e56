"""Starts, watches and stops the processes of one run, and imports none of them."""
