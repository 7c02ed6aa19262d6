"""What runs a subject's workflow: plugin, resources, times, failures, provenance, and what of the output is stale."""
