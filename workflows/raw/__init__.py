"""Raw multi-echo scans of a BIDS data set: found, described, checked, loaded."""
