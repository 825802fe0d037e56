"""The commands of `python -m levibot`, by what they are about."""
