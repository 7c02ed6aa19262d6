"""The dipole on patches."""
