"""Features of images: what evaluation compares images by."""
