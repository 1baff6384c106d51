"""The checkpoints that the authors of networks have published: where they are, fetched, checked."""
