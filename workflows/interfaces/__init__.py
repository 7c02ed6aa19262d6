"""Nipype interfaces: thin shells over the functions of chi33.pipeline."""
