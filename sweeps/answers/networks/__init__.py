"""What trained networks are for: other cells annotated, a network registered."""
