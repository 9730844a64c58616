"""Files that last: written whole or not at all, locked, marked by the command that wrote them."""
