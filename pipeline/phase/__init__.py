"""What raw phase images mean before they are unwrapped, and what a reconstruction has left in them."""
