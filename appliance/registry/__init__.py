"""What clients see: routes, responses, failures as OCI JSON."""
