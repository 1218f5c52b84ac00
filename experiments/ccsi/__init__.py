"""Tables of class impressions and CCSI."""
