"""scGPT: an encoder of binned counts, a network over packed tokens, the authors' recipe."""

from trainables.models.scgpt.model import FILES, SPEC

__all__ = ["FILES", "SPEC"]
