"""What tells one kind of registry from another."""
