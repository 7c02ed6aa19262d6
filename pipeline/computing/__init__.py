"""What of the machine a process may use."""
