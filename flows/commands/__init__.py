"""The subcommands of `rdm`: which there are, what each does, and what it says."""
