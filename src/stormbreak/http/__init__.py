"""The HTTP layer. Only this package opens client connections."""
