"""The GGUF container: what a file's head holds, and how it is read, written and hashed."""
