"""What is said of data before a sweep: the catalog, a check, a first sweep file."""
