"""The backend for Google Cloud Storage."""
