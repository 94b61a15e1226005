"""The values in the shipped manifests that every user has to replace."""

PLACEHOLDERS = ("your-bucket", "your-project", "your-domain")


def has_placeholder(text: str) -> bool:
    """Return whether a text still holds one."""
    return any(placeholder in text for placeholder in PLACEHOLDERS)
