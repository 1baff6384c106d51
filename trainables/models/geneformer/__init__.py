"""Geneformer: an encoder of ranked genes, their vocabulary and medians, the authors' recipe."""

from trainables.models.geneformer.model import SPEC

__all__ = ["SPEC"]
