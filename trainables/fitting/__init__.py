"""What baselines and heads have in common: settings chosen on validation cells, vectors in place of genes."""
