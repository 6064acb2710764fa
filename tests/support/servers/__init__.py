"""Real servers and a browser for tests; see README.md."""
