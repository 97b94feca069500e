"""Learners: GSIM and RL under DeepSpeed and Ray Train."""
