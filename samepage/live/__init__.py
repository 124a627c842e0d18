"""The live kernel: what /proc tells about processes, their mappings and their frames."""
