"""Pictures and maps of your own."""
