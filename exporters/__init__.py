"""Exports (and, at small scale, pretrains) networks for scdd; the format is docs/bundle.md."""

__version__ = "0.1.0"
