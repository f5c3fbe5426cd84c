"""Learn many tasks, pick up a new one fast."""

__version__ = "0.1.0"
