"""Scenes of emoji: what can be asked for, in which words, and pictures of it."""
