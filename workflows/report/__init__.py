"""The subject's and the group's report."""
