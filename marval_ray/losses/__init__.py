"""Losses: (inputs) -> Loss(value, metrics)."""
