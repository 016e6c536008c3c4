"""TLS towards clients and operators: what is shown to them, whom it believes, and what stands in front of it."""
