"""Asking another registry: agents, tokens, redirects, address rules."""
