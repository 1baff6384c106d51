"""scBERT: an encoder of every gene's expression, the network and head, the authors' recipe."""

from trainables.models.scbert.model import FILES, SPEC

__all__ = ["FILES", "SPEC"]
