"""LeviBot's core: features with honest time, the learning loop, the market step. Knows no Ray."""

__version__ = "0.1.0"
