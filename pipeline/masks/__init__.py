"""Brain masks: BET, deepbet, agreement of scans, where the field can be trusted."""
