"""The commands of `repot`, one module each; heavy imports stay inside the function bodies."""
