"""Bars, symbols and the sources they come from."""
