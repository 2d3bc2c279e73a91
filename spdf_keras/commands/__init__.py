"""The subcommands of `spdf-keras`, one file each."""
