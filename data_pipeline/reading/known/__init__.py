"""Datasets known by name: the catalog and what packages carry."""
