"""scGPT: an encoder of binned counts, a network over packed tokens, the authors' recipe."""

from trainables.models.scgpt.model import SPEC

__all__ = ["SPEC"]
