"""Speed measurements: each module compares two implementations in one run and prints their ratio."""
