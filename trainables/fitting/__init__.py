"""What baselines have in common: types with training cells, settings chosen on validation cells."""
