"""One file of the user's: its tables, its counts, and what its numbers are."""
