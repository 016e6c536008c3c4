"""What each repository is known to hold, as JSON documents."""
