"""The endpoint: HTTP, and the replica that draws."""
