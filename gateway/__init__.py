"""The edge gateway: an offline-capable subordinate CA for factories."""

__version__ = "0.1.0"
