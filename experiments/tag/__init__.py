"""The tables of TAG (task-based accumulated gradients)."""
