"""What a card holds, and which cards there are.

account.py counts weights, caches and states per layer; graph.py lists one batch as the engine computes it and
allocation.py places it: the compute buffer. cards.py shares layers and a selection over cards of given sizes,
devices.py asks the drivers for these. docs/memory.md compares all of it with the engine.
"""
