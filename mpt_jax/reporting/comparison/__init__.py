"""The report of `mpt compare`: scores beside what they cost, and how each method's rates were chosen."""
