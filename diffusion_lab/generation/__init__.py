"""A folder of generated images: what is known of each, how it is kept, and how an interrupted one goes on."""
