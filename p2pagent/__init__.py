"""A peer-to-peer network in which people's personal LLM agents help each other."""

__version__ = "0.1.0"
