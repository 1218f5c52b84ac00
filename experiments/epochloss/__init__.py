"""The tables of EpochLoss."""
