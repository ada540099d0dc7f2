"""Folders of generated images: requested images, storage, and resuming an interrupted generation."""
