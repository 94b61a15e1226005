"""Objects in Amazon S3 and compatible services."""
