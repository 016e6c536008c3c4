"""How we get to a registry: addresses, proxies, TLS, and where we may be led."""
