"""Networks of the papers, in plain PyTorch."""
