"""The whole system under load: `python -m tests.load`."""
