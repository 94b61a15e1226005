"""The backend for Amazon S3 and compatible services."""
