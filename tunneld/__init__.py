"""tunneld: flannel's UDP mode, done right."""

__version__ = "0.1.0"
