"""weft connects the container networks of plain Docker hosts."""

__version__ = "0.1.0"
