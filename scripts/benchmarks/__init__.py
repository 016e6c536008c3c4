"""What C{scripts/bench} is made of: contents, servers, readers, rows, and what is said of them."""
