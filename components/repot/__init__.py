"""repot: fine-tune an image classifier on your own pictures, pod by pod."""

__version__ = "0.1.0"
