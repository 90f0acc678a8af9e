"""The networks: torch modules built from the dataclasses of `config.py`. No sampling, no files, no editor."""
