"""Tables of dataset condensation and of condensed replay."""
