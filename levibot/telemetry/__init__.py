"""Metric names and logs."""
