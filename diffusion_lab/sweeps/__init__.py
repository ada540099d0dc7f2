"""Jobs of a sweep: their folders, records and signals, and the ranking of what they found."""
