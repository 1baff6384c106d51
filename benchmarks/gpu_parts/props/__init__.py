"""What several parts of the GPU benchmark play with: cells, upstream's networks, MPS."""
