"""Plain text, by path or from the data folder."""

import pathlib

from star_keras.data import data_folder


def load_text(name):
    """Reads a text.

    Args:
        name: a path, or the name of a `.txt` file in the folder that `STAR_KERAS_DATA` names, such as
            "tinyshakespeare".

    Returns:
        A string.

    Raises:
        ValueError: if there is no such file, or it is not UTF-8.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "story.txt"
    >>> _ = path.write_text("Once.")
    >>> load_text(path)
    'Once.'
    """
    folder = data_folder.folder()
    places = [pathlib.Path(name)] + ([folder / f"{name}.txt"] if folder else [])
    for path in places:
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"A text must be UTF-8. Received: {path}, where {error}") from None
    raise ValueError(
        f"`name` must be the path of a text, or the name of one in the folder of {data_folder.VARIABLE} "
        f"({folder or 'not set'}). Received: name={str(name)[:80]!r}"
    )
