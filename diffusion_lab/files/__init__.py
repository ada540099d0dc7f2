"""Files: written atomically, read with bounds, and folders locked against other processes."""
