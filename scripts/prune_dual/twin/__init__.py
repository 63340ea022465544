"""A GGUF seen as a phase twin: its groups of variants, THE selection rule, and the plain file of a selection."""
