"""Training of an adapted model: recipe, loop, probe, frozen features, cache, resume state."""
