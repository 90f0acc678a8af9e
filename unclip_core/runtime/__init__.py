"""Where networks run: the device and dtype, which of them are loaded, and how many rows of a batch fit."""
