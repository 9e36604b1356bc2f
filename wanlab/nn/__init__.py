"""Building blocks that stages share."""
