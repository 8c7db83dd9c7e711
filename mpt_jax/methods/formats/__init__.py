"""Prompts in other programs' files: one module for each form; `registry` lists them."""
