"""HTTP to one upstream and to where it leads: each layer wraps the next, and all have one verb."""
