"""Array operations in forms that are fast on every backend."""
