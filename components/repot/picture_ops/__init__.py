"""TensorFlow operations that normalise picture files as `repot.pictures` does."""
