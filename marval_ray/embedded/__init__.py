"""What ships: real images, small models that were trained on them, and how they were made."""
