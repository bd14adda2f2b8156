"""Looking into what was built, without building anything."""
