"""Files that appear whole or not at all."""

import os
import secrets


def write_text(path, text):
    """Writes a small text file, a `pathlib.Path`, which holds what it held before or all of the text."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(path):
    """Returns once what was written to a file is on the disk."""
    with open(path, "r+b") as file:  # Windows asks for the right to write
        os.fsync(file.fileno())
