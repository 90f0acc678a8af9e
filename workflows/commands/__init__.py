"""The subcommands of `unclip`, a file each. A new file is a new command."""
