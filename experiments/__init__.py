"""The tables of the papers, the harness that runs them, their reports and the command line."""
