"""The tables of MLI (max loss increase) and of example forgetting, which it is compared with."""
