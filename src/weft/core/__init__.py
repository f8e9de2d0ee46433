"""The pure core: values in, values out. Imports no asyncio, socket, os, time or random (import-linter holds it)."""
