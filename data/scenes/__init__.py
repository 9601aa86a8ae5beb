"""Drawn sport scenes whose evidence is known pixel by pixel."""
