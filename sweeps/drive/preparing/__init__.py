"""What trials need before the first starts: genes, encoded cells, made cells."""
