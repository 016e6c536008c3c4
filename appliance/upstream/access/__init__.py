"""Who we are to a registry: secrets, tokens, and what is shown when."""
