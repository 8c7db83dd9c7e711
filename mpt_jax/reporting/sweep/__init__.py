"""The report of `mpt sweep`: which source mixtures help which targets, and what each setting does."""
