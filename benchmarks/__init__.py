"""Each `python -m benchmarks.NAME [--json] [--quick]` times ours and a reference in the same run."""
