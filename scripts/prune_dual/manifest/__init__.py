"""manifest.json of a release: its content, files and tensors compared with it, and who signed it."""
