"""What the rule scripts share: configuration, logging, files, provenance."""
