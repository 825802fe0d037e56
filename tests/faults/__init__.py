"""Faults on real processes, under writers. What was observed is docs/operations/faults.md."""
