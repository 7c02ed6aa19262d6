"""chi33: raw multi-orientation gradient-echo scans to susceptibility labels, stores and trained QSM networks."""

__version__ = "0.1.0"
