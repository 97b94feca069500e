"""Actors that draw, score and measure: for the RL learner, and pictures for a driver without a GPU."""
