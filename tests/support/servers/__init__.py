"""Real S3 servers for tests; README.md says how to use them."""
