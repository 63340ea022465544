"""Where a twin comes from, and how it gets here: a local file, or ranges of one behind an address."""
