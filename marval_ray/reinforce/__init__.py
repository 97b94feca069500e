"""What an update of RL is, without Ray: losses, scoring, the guard."""
