"""Weight files: reading and downloading."""
