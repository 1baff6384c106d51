"""scBERT: an encoder of every gene's expression, the network and head, the authors' recipe."""

from trainables.models.scbert.model import SPEC

__all__ = ["SPEC"]
