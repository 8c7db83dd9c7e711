"""The text and the backbone that come with the package, for a first run without any download."""
