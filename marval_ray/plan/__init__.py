"""What a run takes before it is run: the memory of each role, counted on tensors without storage, and hours, by a model."""
