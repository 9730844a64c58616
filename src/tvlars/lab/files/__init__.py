"""Safe files: written whole or not at all, locked, and marked by the command that wrote them."""
