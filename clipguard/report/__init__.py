"""What a report says, and how each format draws it."""
