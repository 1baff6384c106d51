"""What a run would do, before it does: its trials, their cells, time and disk."""
