"""Backbones in other programs' files: what can be read, tensor by tensor, and what is written."""
