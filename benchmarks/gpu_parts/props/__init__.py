"""What several parts of the GPU benchmark use: cells, an atlas, upstream's networks, MPS; the table at the end."""
