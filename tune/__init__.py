"""Ray jobs that learn. `from ray import tune as ray_tune` is the one spelling of Ray's own."""
