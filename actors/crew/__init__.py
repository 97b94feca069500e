"""Actors that work for the RL learner: rollouts, rewards, the judge."""
