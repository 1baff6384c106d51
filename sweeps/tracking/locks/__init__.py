"""One driver per sweep, one writer per trial."""
