"""Where the secret of an upstream comes from, and how it is renewed. Nothing here imports an HTTP client."""
