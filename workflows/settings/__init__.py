"""What can be set in a graph (`-s NAME=VALUE`), what a NAME means, and setting it."""
