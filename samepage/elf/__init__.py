"""ELF files: headers as dataclasses, tables as NumPy views of the file."""
