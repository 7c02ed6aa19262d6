"""DICOM to raw BIDS."""
