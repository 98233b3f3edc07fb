"""Exports (and, at small scale, pretrains) networks for scdd. `python -m exporters --help`; the format is
docs/bundle.md.
"""

__version__ = "0.1.0"
