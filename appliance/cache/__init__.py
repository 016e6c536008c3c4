"""The decisions: resolving, flights, freshness."""
